#!/bin/sh
# Install Slurm and munge from Debian's packages where that is possible; where not, the tests skip and say so.
PATH=$PATH:/usr/sbin:/sbin
if command -v slurmctld && command -v slurmd && command -v munged; then
  exit 0
fi >/dev/null
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Slurm is not installed, and only root can install it with apt-get: the tests will be skipped"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
quickly="-q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60"
log=$(mktemp)
if ! { apt-get $quickly update && apt-get $quickly install -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1; then
  tail -n 5 "$log"
  echo "apt-get could not install slurm-wlm and munge: the tests will be skipped"
fi
rm -f "$log"
