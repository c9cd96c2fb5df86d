#!/usr/bin/env bash
# Kills an executor in the middle of a query, `KILLS` times (10): each time the query ends within a minute with
# the same answer, or with an error, after which it has the same answer when it is asked again.
. "$(dirname "$0")/cluster.sh"
kills=${KILLS:-10}
build
readings >/dev/null
ask --partitions 1 --write "$work/answer"
start_scheduler
start_executor one 1
start_executor two 2
ready
started=$(date +%s%N)
on_cluster --compare "$work/answer"
took=$((($(date +%s%N) - started) / 1000000))
same=0 errors=0 wrong=0 attempt=0
while [ $((same + errors + wrong)) -lt "$kills" ] && [ "$attempt" -lt $((3 * kills)) ]; do
  attempt=$((attempt + 1))
  # One of them after the other, at another moment each time: from a tenth of the query to nearly all of it.
  victim=$([ $((attempt % 2)) = 1 ] && echo one || echo two)
  moment=$((took * (1 + attempt * 7 % 10) / 12))
  started=$(date +%s%N)
  on_cluster --compare "$work/answer" >"$work/query" 2>"$work/query.error" &
  query=$!
  sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
  kill -KILL "${pids[$victim]}"
  running=1
  kill -0 "$query" 2>/dev/null || running=0
  { wait "${pids[$victim]}" || true; } 2>/dev/null
  code=0
  wait "$query" || code=$?
  seconds=$((($(date +%s%N) - started) / 1000000000))
  if [ "$running" = 0 ]; then
    outcome="the query had ended, this is not counted"
  elif [ "$code" = 0 ]; then
    outcome="the same answer"
    same=$((same + 1))
  elif [ "$code" = 1 ] && on_cluster --compare "$work/answer" >/dev/null 2>"$work/again.error"; then
    outcome="an error, then the same answer: $(head -c 300 "$work/query.error" | tr '\n' ' ')"
    errors=$((errors + 1))
  else
    outcome="another answer, none within a minute, or an error twice ($code)"
    wrong=$((wrong + 1))
    cat "$work/query.error"
  fi
  echo "executor $victim killed after $moment ms of about $took: $outcome ($seconds s)"
  start_executor "$victim" $((2 + attempt))
  # Until the scheduler has given up the dead one and counts the new one.
  sleep 1
  ready
done
echo "the same answer: $same, an error and then the same answer: $errors, together: $((same + errors)) of $kills"
[ $((same + errors)) = "$kills" ]
