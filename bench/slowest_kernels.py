#!/usr/bin/env python3
"""The twelve slowest kernels of a profile: python bench/slowest_kernels.py PROFILE.csv

PROFILE.csv is what `ncu --csv --print-units base --metrics gpu__time_duration.sum,dram__bytes.sum` prints (bench/on_gpu).
"""
import collections
import csv
import sys


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    launches = {}
    with open(sys.argv[1]) as file:
        for row in csv.DictReader(line for line in file if line.startswith('"')):
            launch = launches.setdefault(row["ID"], {"name": row["Kernel Name"]})
            launch[row["Metric Name"]] = float(row["Metric Value"].replace(",", ""))
    kernels = collections.defaultdict(list)
    for launch in launches.values():
        kernels[launch["name"]].append((launch.get("gpu__time_duration.sum", 0), launch.get("dram__bytes.sum", 0)))
    total = sum(time for calls in kernels.values() for time, _ in calls)
    print(f"{len(launches)} launches, {total / 1e3:.0f} us")
    for name, calls in sorted(kernels.items(), key=lambda item: -sum(time for time, _ in item[1]))[:12]:
        time, moved = (sum(values) for values in zip(*calls))
        print(f"{time / 1e3:9.1f} us {len(calls):5} launches {time / 1e3 / len(calls):8.1f} us each {moved / max(time, 1):6.0f} GB/s  {name[:150]}")


if __name__ == "__main__":
    main()
