#!/usr/bin/env bash
# The query of the example `station_posteriors` on a scheduler and two executors, processes of this machine:
# its posteriors are those of embedded DataFusion, to the bit, and so are predictions and merged posteriors.
. "$(dirname "$0")/cluster.sh"
build
readings
start_scheduler
start_executor one 1
start_executor two 2
ready

predictions="SELECT station, t, q.mean, q.std, q.q05, q.q95 FROM (
  SELECT station, t, cmanp_predict(p.posterior, t, cos(44 * t), sin(44 * t)) AS q
  FROM ($(cat integrations/datafusion/examples/station_posteriors/posteriors.sql)) AS p
  CROSS JOIN (VALUES (-1.5), (-0.5), (0.5), (1.5)) AS moments (t))"
merged="SELECT station % 10 AS region, cmanp_merge(posterior) AS posterior FROM (
  SELECT station, cmanp_condition(y, t, c, s) AS posterior FROM readings WHERE t < 0 GROUP BY station
  UNION ALL
  SELECT station, cmanp_condition(y, t, c, s) FROM readings WHERE t >= 0 GROUP BY station)
  GROUP BY station % 10"
passed=0 of=0
compare() { # NAME SQL..
  local name=$1 partitions
  shift
  echo "$name"
  ask --partitions 1 --write "$work/$name" "$@"
  for partitions in 2 7; do
    of=$((of + 1))
    if ask --partitions "$partitions" --compare "$work/$name" "$@"; then passed=$((passed + 1)); fi
  done
  for partitions in 2 7; do
    of=$((of + 1))
    if on_cluster --partitions "$partitions" --compare "$work/$name" "$@"; then passed=$((passed + 1)); fi
  done
}
compare posteriors
compare predictions --sql "$predictions"
compare merged --sql "$merged"

# Both took part, and each has read what the other wrote.
for name in one two; do
  of=$((of + 1))
  tasks=$(grep -c 'Finished task' "$work/$name.log" || true)
  echo "executor $name finished $tasks tasks"
  [ "$tasks" = 0 ] || passed=$((passed + 1))
done
echo "equal to the bit: $passed of $of"
[ "$passed" = "$of" ]
