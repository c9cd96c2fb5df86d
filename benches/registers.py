#!/usr/bin/env python3
"""Guards what compilers of real GPUs make of the kernels, on a machine without one.

    python3 benches/registers.py --compiler PATH            # compares with benches/registers.csv
    python3 benches/registers.py --compiler PATH --update   # writes it anew

Renders the library's texts (`cargo run --example shaders`), gives those of benches/registers.txt to an
offline compiler, and compares registers, spills and instructions with the table. It fails where a
number of registers or instructions has grown by more than --tolerance, where a text spills, and where
a pattern fits no text. Run by hand: the compiler is no part of the repository.

The compiler, --compiler or the environment variable GPU_COMPILER, is a command that takes `--gpu NAME[,NAME..]
FILE.wgsl..` and prints for each GPU a line `== NAME` and a table: a line of titles, among them `shader`,
`regs`, `spill` and `instr`, then a line for each file, columns apart by two spaces or more.
"""

import argparse
import csv
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERNS, TABLE = ROOT / "benches/registers.txt", ROOT / "benches/registers.csv"
COLUMNS = ["gpu", "text", "registers", "spills", "instructions"]


def wanted(texts):
    """The texts of each GPU, by the patterns; and the patterns that fit none."""
    by_gpu, idle = {}, []
    for line in PATTERNS.read_text().splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        gpus, pattern = line.split(maxsplit=1)
        fitting = [text for text in texts if fnmatch.fnmatch(text, pattern)]
        if not fitting:
            idle.append(pattern)
        for gpu in gpus.split(","):
            for text in fitting:
                by_gpu.setdefault(gpu, {})[text] = None
    return {gpu: list(texts) for gpu, texts in by_gpu.items()}, idle


def compiled(compiler, gpu, folder, texts):
    """(registers, spills, instructions) of each text on a GPU."""
    with tempfile.TemporaryDirectory() as short:
        # Names without anything that a shell or a compiler might mind.
        files = {f"text{i:04}": text for i, text in enumerate(texts)}
        for name, text in files.items():
            shutil.copy(folder / text, Path(short) / f"{name}.wgsl")
        command = [compiler, "--gpu", gpu, *(f"{short}/{name}.wgsl" for name in files)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{compiler} failed on {gpu}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found, titles = {}, None
    for line in done.stdout.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if cells[0] == "shader":
            titles = cells
        elif titles and cells[0] in files:
            row = dict(zip(titles, cells))
            found[files[cells[0]]] = tuple(int(re.match(r"\d+", row[key])[0]) for key in ("regs", "spill", "instr"))
    missing = [text for text in texts if text not in found]
    if missing:
        sys.exit(f"{compiler} said nothing of {missing[0]} on {gpu}:\n{done.stdout[-2000:]}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default=os.environ.get("GPU_COMPILER"), help="or the variable GPU_COMPILER")
    parser.add_argument("--texts", type=Path, help="a folder of texts that `--example shaders` wrote, instead of writing them")
    parser.add_argument("--tolerance", type=float, default=0.03, help="share by which a number may grow (0.03)")
    parser.add_argument("--update", action="store_true", help="write the table instead of comparing with it")
    args = parser.parse_args()
    if not args.compiler or not shutil.which(args.compiler):
        sys.exit("no compiler: give --compiler PATH or set GPU_COMPILER; --help says what it must print")
    with tempfile.TemporaryDirectory() as rendered:
        folder = args.texts
        if folder is None:
            folder = Path(rendered)
            subprocess.run(["cargo", "run", "-q", "--example", "shaders", "--", "--out", rendered], cwd=ROOT, check=True)
        texts = sorted(path.name for path in folder.glob("*.wgsl"))
        by_gpu, faults = wanted(texts)
        faults = [f"the pattern {pattern} fits no text" for pattern in faults]
        rows = {}
        for gpu, of_gpu in by_gpu.items():
            for text, numbers in compiled(args.compiler, gpu, folder, of_gpu).items():
                rows[gpu, text] = numbers
    before = {}
    if TABLE.exists():
        with TABLE.open() as file:
            before = {(row["gpu"], row["text"]): tuple(int(row[key]) for key in COLUMNS[2:]) for row in csv.DictReader(file)}
    for (gpu, text), numbers in rows.items():
        what = f"{gpu:<8} {text}"
        if numbers[1]:
            faults.append(f"{what}: {numbers[1]} spills")
        old = before.get((gpu, text))
        if old is None:
            if not args.update:
                faults.append(f"{what}: not in the table; --update puts it there")
            continue
        for title, was, now in zip(COLUMNS[2:], old, numbers):
            if now != was:
                print(f"{what}: {was} to {now} {title}")
            if now > was * (1 + args.tolerance) and title != "spills" and not args.update:
                faults.append(f"{what}: {title} grew from {was} to {now}")
    if args.update:
        with TABLE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([gpu, text, *numbers] for (gpu, text), numbers in sorted(rows.items()))
    print(f"{len(rows)} texts on {len(by_gpu)} GPUs, {len(faults)} faults")
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
