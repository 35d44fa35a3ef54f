#!/bin/sh
# Makes the passwords that docker-compose.yml wants, each in a file of its own under secrets/, once: what is there stays.
#
#   sh deploy/secrets.sh [folder]
#
# The folder is closed to everybody else on the host. The files in it are not, because the containers, which run as
# users without rights on the host, read them through mounts of their own.
set -eu

folder=${1:-secrets}
umask 077
mkdir -p "$folder"

made() {  # name: a new password, unless there is one
    [ -s "$folder/$1" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$1"
}

written() {  # name, content
    printf '%s' "$2" > "$folder/$1"
}

made postgres_password
made valkey_password
made grafana_password
written database_url "postgresql+psycopg://bushel:$(cat "$folder/postgres_password")@postgres:5432/bushel"
written broker_url "redis://bushel:$(cat "$folder/valkey_password")@valkey:6379/0"
chmod 644 "$folder"/*
echo "passwords are in $folder; keep a copy where your backups are not" >&2
