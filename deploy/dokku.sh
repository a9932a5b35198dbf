#!/bin/sh
# dokku.sh APP DATABASE [IMAGE]: runs backupd beside a Dokku app, on the Dokku host. DATABASE is the file inside the app's
# storage, such as tasks.db, or . for all databases in it; the storage is the one that `dokku storage:list APP` shows, mounted by
# its path on the host.
#
#   deploy/dokku.sh tasks . registry.example.com/backupd:0.1.0
#
# With a directory of files that belong to them, inside that storage: FILES=uploads deploy/dokku.sh tasks .
# With several mounts: DATA=/directory/on/the/host deploy/dokku.sh tasks .
# Run it again after a change: every step can be repeated.
set -eu
app=${1:?usage: dokku.sh APP DATABASE [IMAGE]}
database=${2:?usage: dokku.sh APP DATABASE [IMAGE]}
image=${3:-backupd:0.1.0}
backup=$app-backup
command -v dokku >/dev/null || { echo "there is no dokku here: run this on the Dokku host, as root" >&2; exit 1; }
dokku apps:exists "$app" || exit 1

data=${DATA-}
[ -n "$data" ] || data=$(dokku storage:list "$app" --format json | python3 -c '
import json, sys
mounts = [m["host_path"] for m in json.load(sys.stdin)]
if len(mounts) != 1:
    sys.exit("%s has %d mounts: set DATA=/directory/on/the/host, in which the database is" % (sys.argv[1], len(mounts)))
print(mounts[0])
' "$app")
[ -e "$data/$database" ] || { echo "no database at $data/$database" >&2; exit 1; }
[ -d "$data/${FILES-}" ] || { echo "no directory at $data/$FILES" >&2; exit 1; }

dokku apps:exists "$backup" 2>/dev/null || dokku apps:create "$backup"
# Backups of their own directory: they outlive the app, and the app can neither fill nor change them.
dokku storage:ensure-directory --chown false "$backup"
backups=/var/lib/dokku/data/storage/$backup
for mount in "$data:/app/data" "$backups:/backups"; do
    dokku storage:list "$backup" | grep -qF "$mount" || dokku storage:mount "$backup" "$mount"
done
# No domain: the page is at port 8080 of the container, with this token as password and any user name.
dokku proxy:disable "$backup"
dokku config:get "$backup" BACKUPD_HTTP__TOKEN >/dev/null 2>&1 ||
    dokku config:set --no-restart "$backup" BACKUPD_HTTP__TOKEN="$(openssl rand -hex 24)"
dokku checks:set "$backup" wait-to-retire 60
dokku config:set --no-restart "$backup" BACKUPD_DATABASE="/app/data/$database" BACKUPD_BACKUPS_DIR=/backups
[ -z "${FILES-}" ] || dokku config:set --no-restart "$backup" BACKUPD_FILES__UPLOADS__PATH="/app/data/$FILES"
dokku docker-options:add "$backup" deploy,run "--cap-drop=ALL --cap-add=CHOWN --cap-add=SETUID --cap-add=SETGID --cap-add=KILL"
dokku docker-options:add "$backup" deploy,run "--security-opt=no-new-privileges --read-only --tmpfs=/tmp --memory=256m"
dokku ps:set "$backup" stop-timeout-seconds 60
dokku git:from-image "$backup" "$image"
dokku enter "$backup" web backupd doctor
echo "the page: port 8080 of the container; its password: dokku config:get $backup BACKUPD_HTTP__TOKEN"
