#!/usr/bin/env bash
# Tries the Debian package as its user does: in a clean Debian 12 it is installed, started by hand and
# by systemd, upgraded with edited settings, removed, and purged. Models and answers must stay. It takes
# three minutes beside the build, and leaves nothing behind but target/debian.
#
#     deploy/debian/test.sh         # as root; needs cargo-deb and the packages below
#     deploy/debian/test.sh unit    # only the unit, by systemd-analyze; seconds, as any user
#
#     apt-get install debootstrap dpkg-dev lintian systemd-container
set -euo pipefail
cd "$(dirname "$0")/../.."

step() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
# Runs a command, which must succeed, and shows it.
check() {
  printf '   %s\n' "$*"
  "$@" || fail "$*"
}
# equal WHAT GOT EXPECTED
equal() {
  [ "$2" = "$3" ] || fail "$1: expected $3, got $2"
  printf '   %s: %s\n' "$1" "${2:-none}"
}

name=iforest-server
unit=/usr/lib/systemd/system/$name.service
config=/etc/$name/config.toml
store=/var/lib/$name
work=$(mktemp -d /var/tmp/$name-deb.XXXXXX)
root=$work/root
container= # the process id of systemd-nspawn while the root is booted

cleanup() {
  if [ -n "$container" ]; then
    kill -KILL "$container" 2>/dev/null || true
    wait "$container" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

step "the unit"
# The program need not be installed here.
sed "s|^ExecStart=/usr/bin/$name|ExecStart=/bin/true|" "deploy/debian/$name.service" >"$work/$name.service"
equal "findings of systemd-analyze verify" "$(systemd-analyze verify --man=no "$work/$name.service" 2>&1)" ""
# In tenths, of 10. Most of what is left is the network, which the server is for.
systemd-analyze security --offline=true --no-pager --threshold=20 "$work/$name.service" >"$work/security" ||
  fail "$(cat "$work/security")"
grep -E '^✗|Overall' "$work/security"
[ "${1:-all}" = unit ] && exit

step "the package"
cargo deb --locked --output "$work/$name.deb"
version=$(dpkg-deb --field "$work/$name.deb" Version)
# What an upgrade needs: a higher version.
cargo deb --no-build --deb-version "$version+newer" --output "$work/$name-newer.deb"
dpkg-deb --info "$work/$name.deb" | sed -n '/Package:/,$p'
equal "version in deploy/debian/changelog" "$(dpkg-parsechangelog -l deploy/debian/changelog -S Version)" "$version"
lintian --version >/dev/null && lintian --fail-on error "$work/$name.deb"

step "a clean Debian root"
debootstrap --variant=minbase bookworm "$root" >"$work/log" || fail "$(tail "$work/log")"
cp "$work"/*.deb "$root/root/"
nspawn=(systemd-nspawn --quiet --directory "$root" --link-journal=no --setenv=DEBIAN_FRONTEND=noninteractive)
[ -d /run/systemd/system ] || nspawn+=(--register=no --keep-unit)
# Where systemd does not run, as in a chroot or while an image is built.
without_systemd() { "${nspawn[@]}" --pipe "$@" </dev/null; }
# Where systemd is process 1.
with_systemd() { nsenter --target "$(pgrep -P "$container")" --all -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

step "install without systemd running"
without_systemd sh -euc "apt-get -qq update
  apt-get -qq install --no-install-recommends curl dbus systemd-sysv >/dev/null 2>&1
  apt-get install --yes /root/$name.deb"
equal "user" "$(without_systemd getent passwd $name | cut -d: -f6,7)" "$store:/usr/sbin/nologin"
equal "conffiles" "$(without_systemd dpkg-query --show --showformat '${Conffiles}' $name | grep -o '/[^ ]*')" $config
equal "the unit is" "$(without_systemd systemctl is-enabled $name)" enabled
equal "findings of systemd-analyze verify" "$(without_systemd sh -c "systemd-analyze verify --man=no $unit 2>&1")" ""
check without_systemd iforest-server --config $config --check-config

# Asks two models. Whatever happens to the package, the answers must stay.
cat >"$root/root/ask" <<'END'
for value in 1.5 2.5 9; do
  curl --fail --silent --show-error localhost:5000/predict --json "{\"value\": $value}"
  curl --fail --silent --show-error localhost:5000/models/press-1/predict --json "{\"values\": [[$value, 20]]}"
done
END
seq 5000 | awk '{ printf "%s[%d, %d, %d]", (NR > 1 ? ", " : "{\"samples\": ["), $1 % 7, $1 % 11, $1 % 13 } END { print "]}" }' \
  >"$root/root/samples"
sed s/samples/values/ "$root/root/samples" >"$root/root/values"
# As the unit starts it, but without systemd: StateDirectory= makes the folder there.
cat >"$root/root/by-hand" <<END
set -eu
install -d -m 700 -o $name -g $name $store
cd $store
setpriv --reuid $name --regid $name --init-groups $(sed -n 's/^ExecStart=//p' "deploy/debian/$name.service") &
END
cat >>"$root/root/by-hand" <<'END'
server=$!
curl --fail --silent --output /dev/null --retry 20 --retry-connrefused --retry-delay 1 localhost:5000/ready
curl --fail --silent --show-error localhost:5000/retrain --json '{"samples": [2.1, 2.4, 2.2, 2.6, 2.5, 2.3, 2.2, 2.8]}' >&2
curl --fail --silent --show-error localhost:5000/models/press-1/retrain \
  --json '{"samples": [[2.1, 20], [2.4, 21], [2.2, 19], [2.6, 20], [2.5, 22], [2.3, 20]]}' >&2
sh -eu /root/ask
kill "$server"
wait "$server"
END

step "start by hand as $name, and train"
answers=$(without_systemd --private-network sh /root/by-hand) || fail "the server started by hand"
printf '%s\n' "$answers"

step "boot: systemd starts the service"
"${nspawn[@]}" --private-network --boot </dev/null >"$work/boot" 2>&1 &
container=$!
state() { with_systemd systemctl show --property "$1" --value $name; }
ready() {
  with_systemd curl --fail --silent --output /dev/null --retry 20 --retry-connrefused --retry-delay 1 localhost:5000/ready ||
    fail "the service is not ready: $(with_systemd journalctl --unit $name --no-pager --lines 20)"
}
same_answers() {
  ready
  [ "$(with_systemd sh -eu /root/ask)" = "$answers" ] || fail "the answers changed: $(with_systemd sh /root/ask)"
  printf '   the answers are the same\n'
}
for _ in $(seq 60); do
  with_systemd systemctl is-system-running --wait 2>/dev/null | grep -Eq 'running|degraded' && break
  sleep 1
done
equal "failed units" "$(with_systemd systemctl --failed --quiet --plain)" ""
equal "the service is" "$(state ActiveState)" active
same_answers
status=$(with_systemd cat "/proc/$(state MainPID)/status")
equal "capabilities" "$(sort -u <(sed -n 's/^Cap.*:\t//p' <<<"$status"))" 0000000000000000
equal "no new privileges" "$(sed -n 's/^NoNewPrivs:\t//p' <<<"$status")" 1
equal "filters of system calls" "$(sed -n 's/^Seccomp:\t//p' <<<"$status")" 2
equal "folder" "$(with_systemd stat --format '%U %a' $store)" "$name 700"
# Training, large batches, and the store, under all restrictions of the unit.
with_systemd sh -euc '
  curl --fail --silent --show-error localhost:5000/models/press-2/retrain --json @/root/samples
  curl --fail --silent --show-error localhost:5000/models/press-2/predict --json @/root/values | tail -c 100' ||
  fail "a large batch"

step "a server that is killed comes back; wrong settings do not make it start again and again"
pid=$(state MainPID)
with_systemd sh -c "kill -KILL $pid"
sleep 6
[ "$(state MainPID)" != "$pid" ] || fail "the same process"
same_answers
with_systemd sed -i '$a n-estimators = "many"' $config
with_systemd systemctl restart $name || true
sleep 6
equal "state, exit code, restarts" "$(state ActiveState) $(state ExecMainStatus) $(state NRestarts)" "failed 2 0"
with_systemd journalctl --unit $name --no-pager --output cat --lines 20 | grep -F "$config"
with_systemd sed -i '$d' $config

step "keys, as the file of settings says"
with_systemd sh -euc "echo 'engineer all 0123456789abcdef' >/root/KEYS
  install -m 640 -g $name /root/KEYS /etc/$name/keys
  sed -i 's/^#api-keys/api-keys/' $config
  systemctl restart $name"
ready
models() { with_systemd curl --silent --output /dev/null --write-out '%{http_code}' "$@" localhost:5000/models; }
equal "status without a key" "$(models)" 401
equal "status with a key" "$(models --header 'Authorization: Bearer 0123456789abcdef')" 200
with_systemd sed -i 's/^api-keys/#api-keys/' $config
with_systemd rm /etc/$name/keys

step "upgrade with edited settings"
with_systemd sed -i '$a n-estimators = 150' $config
with_systemd systemctl restart $name
same_answers
pid=$(state MainPID)
check with_systemd apt-get install --yes /root/$name-newer.deb
equal "version" "$(with_systemd dpkg-query --show --showformat '${Version}' $name)" "$version+newer"
equal "setting" "$(with_systemd iforest-server --config $config --check-config | grep estimators)" \
  "n-estimators = 150 # $config, line $(with_systemd grep -c '' $config)"
[ "$(state MainPID)" != "$pid" ] || fail "the old program still runs"
same_answers

step "remove: settings and models stay"
check with_systemd apt-get remove --yes $name
equal "the service is" "$(state ActiveState)" inactive
check with_systemd test ! -e /usr/bin/$name
check with_systemd grep estimators $config
check with_systemd ls $store/models

step "install again"
check with_systemd apt-get install --yes /root/$name.deb
same_answers

step "purge: the settings go, the models stay, also behind a link to another disk"
check with_systemd sh -c "systemctl stop $name && mv $store /srv/models && ln -s /srv/models $store"
check with_systemd apt-get purge --yes $name | tee "$work/log"
grep -q "models are kept in $store" "$work/log" || fail "no word about the models"
equal "the service is" "$(state LoadState)" not-found
check with_systemd test ! -e /etc/$name
check with_systemd ls $store/models

with_systemd systemctl poweroff
wait "$container" || true
container=
step "all is well"
