#!/bin/sh
# Before the package goes, enforcement goes: without the command nobody could
# end it. dpkg says "upgrade" and rpm says 1 where a newer version follows, which
# takes over what is in force.
set -e
case "${1:-}" in
upgrade | failed-upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now perimeterd.service
fi
perimeterctl disable
# An agent that is installed later is not meant to find itself disabled.
perimeterctl enable >/dev/null
