// hlsl.exe fxc|dxc PROFILE FILE..: compiles HLSL with Microsoft's compilers, as wgpu's DX12 backend
// calls them. Prints a line for each file: "ok SECONDS FILE", or "no SECONDS FILE: MESSAGE".
// A line of standard input is a file, too, where none is given.
#define COBJMACROS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <d3dcompiler.h>

// What is used of dxcapi.h, which MinGW lacks.
typedef struct { const void *at; SIZE_T size; UINT encoding; } Buffer;
typedef struct Result Result;
typedef struct {
  HRESULT(WINAPI *QueryInterface)(Result *, REFIID, void **);
  ULONG(WINAPI *AddRef)(Result *);
  ULONG(WINAPI *Release)(Result *);
  HRESULT(WINAPI *GetStatus)(Result *, HRESULT *);
  HRESULT(WINAPI *GetResult)(Result *, ID3DBlob **);
  HRESULT(WINAPI *GetErrorBuffer)(Result *, ID3DBlob **);
} ResultTable;
struct Result { ResultTable *table; };
typedef struct Compiler Compiler;
typedef struct {
  HRESULT(WINAPI *QueryInterface)(Compiler *, REFIID, void **);
  ULONG(WINAPI *AddRef)(Compiler *);
  ULONG(WINAPI *Release)(Compiler *);
  HRESULT(WINAPI *Compile)(Compiler *, const Buffer *, LPCWSTR *, UINT, void *, REFIID, void **);
} CompilerTable;
struct Compiler { CompilerTable *table; };

static const GUID CLSID_DxcCompiler = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID IID_IDxcCompiler3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID IID_IDxcResult = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};

typedef HRESULT(WINAPI *CreateInstance)(REFIID, REFIID, void **);

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char *text = malloc(*size + 1);
  *size = fread(text, 1, *size, file);
  text[*size] = 0;
  fclose(file);
  return text;
}

static void report(const char *path, HRESULT status, ID3DBlob *errors, DWORD start) {
  printf("%s %.2f %s", SUCCEEDED(status) ? "ok" : "no", (GetTickCount() - start) / 1e3, path);
  if (FAILED(status)) {
    printf(": %08lx ", (unsigned long)status);
    const char *text = errors ? ID3D10Blob_GetBufferPointer(errors) : "";
    size_t size = errors ? ID3D10Blob_GetBufferSize(errors) : 0, from = 0;
    // From the first error on, behind the warnings; one line, and not all of it.
    for (size_t i = 0; i + 7 < size && !from; i++) from = memcmp(text + i, "error", 5) ? 0 : i;
    for (size_t i = from; i < size && i < from + 300 && text[i]; i++) putchar(text[i] == '\n' || text[i] == '\r' ? ' ' : text[i]);
  }
  putchar('\n');
  fflush(stdout);
}

int main(int n, char **arguments) {
  if (n < 3) return 2;
  int is_dxc = !strcmp(arguments[1], "dxc");
  const char *profile = arguments[2];
  HMODULE library = LoadLibraryA(is_dxc ? "dxcompiler.dll" : "d3dcompiler_47.dll");
  if (!library) return printf("no library: %lu\n", GetLastError()), 2;
  pD3DCompile fxc = NULL;
  Compiler *dxc = NULL;
  if (is_dxc) {
    CreateInstance create = (CreateInstance)GetProcAddress(library, "DxcCreateInstance");
    if (!create || FAILED(create(&CLSID_DxcCompiler, &IID_IDxcCompiler3, (void **)&dxc))) return puts("no compiler"), 2;
  } else if (!(fxc = (pD3DCompile)GetProcAddress(library, "D3DCompile"))) {
    return puts("no compiler"), 2;
  }
  WCHAR wide[32];
  mbstowcs(wide, profile, 32);
  LPCWSTR with[] = {L"-E", L"main", L"-T", wide, L"-HV", L"2018", L"-no-warnings", L"-Ges", L"-enable-16bit-types"};
  // Types of 16 bits begin with 6.2.
  UINT n_with = strcmp(profile, "cs_6_2") < 0 ? 8 : 9;
  char line[4096];
  for (int i = 3; i < n || n == 3; i++) {
    const char *path = arguments[i];
    if (n == 3) {
      if (!fgets(line, sizeof line, stdin)) break;
      line[strcspn(line, "\r\n")] = 0;
      path = line;
    }
    size_t size;
    char *text = read_file(path, &size);
    if (!text) {
      printf("no 0 %s: cannot be read\n", path);
      continue;
    }
    DWORD start = GetTickCount();
    ID3DBlob *code = NULL, *errors = NULL;
    HRESULT status;
    if (is_dxc) {
      Buffer buffer = {text, size, 65001};
      Result *result = NULL;
      status = dxc->table->Compile(dxc, &buffer, with, n_with, NULL, &IID_IDxcResult, (void **)&result);
      if (SUCCEEDED(status)) {
        result->table->GetErrorBuffer(result, &errors);
        result->table->GetStatus(result, &status);
        report(path, status, errors, start);
        result->table->Release(result);
      } else {
        report(path, status, NULL, start);
      }
    } else {
      status = fxc(text, size, NULL, NULL, NULL, "main", profile, D3DCOMPILE_ENABLE_STRICTNESS, 0, &code, &errors);
      report(path, status, errors, start);
      if (code) ID3D10Blob_Release(code);
    }
    if (errors) ID3D10Blob_Release(errors);
    free(text);
  }
  return 0;
}
