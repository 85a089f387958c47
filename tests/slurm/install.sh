#!/bin/sh
# Install SLURM and what its accounting needs, where apt-get and root allow it. No service of the system is started:
# the tests start daemons of their own. Exit code 0 in any case: tests that lack a program are skipped with a line.
command -v slurmctld >/dev/null && command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "SLURM is not installed, and installing it needs root and apt-get" >&2
    exit 0
fi
policy=/usr/sbin/policy-rc.d  # answers 101: a package may not start its service
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
apt-get -qq update || true
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends slurm-wlm munge slurmdbd mariadb-server \
    >/dev/null || echo "SLURM could not be installed" >&2
exit 0
