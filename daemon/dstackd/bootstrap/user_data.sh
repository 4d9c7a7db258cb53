#!/bin/bash
# dstackd: fetch the runner, check it, run it; then end this machine, whatever happened.
# One text for every launch: all that differs is in the instance's own tags.
set -eu
umask 022
local_cloud=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}
if [ -n "$local_cloud" ]; then dir=$PWD/dstackd; else dir=/var/lib/dstackd; fi
systemd=
[ -n "$local_cloud" ] || [ ! -d /run/systemd/system ] || [ "$(id -u)" != 0 ] || systemd=yes
python=
sleeper=
stage=bootstrap
lifetime=604800 # seconds, unless the tag says otherwise
stop_s=600      # for the runner to stop the job and to seal its artifacts
margin_s=600    # on top of that, until the machine goes down without its runner

power_off() {
  local off
  off=$(command -v shutdown || echo /sbin/shutdown)
  # On a computer that only plays a machine, the real command is never called.
  case "$local_cloud:$off" in :*) ;; *:/bin/* | *:/sbin/* | *:/usr/*) return 0 ;; esac
  # A stop job of the image's may hang or wait for upgrades: 90 s, then nothing is asked.
  [ -z "$systemd" ] || timer off 90 force_off || :
  "$off" -h now
}

force_off() {
  [ -z "$local_cloud" ] || return 0
  systemctl poweroff --force
  sleep 30
  systemctl poweroff --force --force
}

timer() { # NAME SECONDS FUNCTION ARGUMENT...: systemd calls it then, also while it shuts down
  systemd-run --quiet --collect --unit "dstackd-$1" --on-active="$2" \
    --timer-property=AccuracySec=1 --timer-property=DefaultDependencies=no \
    -p DefaultDependencies=no /bin/bash "$dir/end.sh" "${@:3}"
}

bounded() { # SECONDS COMMAND...; timeout is not on a Mac, which can only play a machine
  if command -v timeout > /dev/null; then timeout -k 10 "$@"; else "${@:2}"; fi
}

bootstrap() { # SECONDS COMMAND ARGUMENT...
  bounded "$1" "$python" -I -X utf8 "$dir/bootstrap.py" "${@:2}"
}

last_words() { # what could not be written, as on a full disk, cannot be read
  local disk
  tail -n 1 "$dir/error" 2>&1 | grep . && return
  disk=$(df -Ph "$dir" 2>&1 | tail -n 1)
  case $disk in *' 98% '* | *' 99% '* | *' 100% '*) echo "the disk: $disk" ;; esac
}

hmac() { # KEY (hex, at most 64 bytes) TEXT: HMAC-SHA256 in hex
  local inner='' outer='' byte at
  for ((at = 0; at < 128; at += 2)); do
    byte=$((16#0${1:at:2}))
    printf -v byte '\\x%02x\\x%02x' $((byte ^ 54)) $((byte ^ 92))
    inner+=${byte:0:4} outer+=${byte:4}
  done
  inner=$( (printf %b "$inner" && printf %s "$2") | sha256sum | sed 's/ .*//; s/../\\x&/g')
  printf %b "$outer$inner" | sha256sum | cut -c 1-64
}

fetch_url() {
  curl -q -sSf --noproxy '*' --max-time 20 --retry 5 --retry-connrefused "$@"
}

# Without a Python. Old curls cannot sign a role's requests: they leave its token unsigned.
report_by_curl() { # STAGE MESSAGE
  local LC_ALL=C imds=${local_cloud:-http://169.254.169.254}/latest token role bucket region base
  local host path words='' text letter at now scope names key word
  token=$(fetch_url -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$imds/api/token") || return 1
  look() { fetch_url -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"; }
  field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" <<< "$role"; }
  role=iam/security-credentials/
  role=$(look "$role$(look "$role")") || return 1
  bucket=$(look tags/instance/dstack_bucket) || return 1
  region=$(look placement/region)
  base=https://s3.$region.amazonaws.com
  case $region in cn-*) base=$base.cn ;; esac
  base=${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL:-$base}}
  base=${base%/}
  host=${base#*://}
  text=$(tr -cd ' -~' <<< "$2")
  for ((at = 0; at < ${#text} && at < 160; at++)); do
    letter=${text:at:1}
    case $letter in [A-Za-z0-9._~-]) ;; *) printf -v letter '%%3D%02X' "'$letter" ;; esac
    words+=$letter
  done
  path=/$bucket/dstackd/inbox/$(look instance-id)/999999%21failed%21-%210%21$1%21$words
  now=$(date -u +%Y%m%dT%H%M%SZ)
  scope=${now%T*}/$region/s3/aws4_request
  names='host;x-amz-content-sha256;x-amz-date;x-amz-security-token'
  set -- "$(sha256sum < /dev/null | cut -c 1-64)" "$(field Token)"
  text=$(printf '%s\n' PUT "$path" '' "host:$host" "x-amz-content-sha256:$1" "x-amz-date:$now" \
    "x-amz-security-token:$2" '' "$names" | { cat && printf %s "$1"; } | sha256sum | cut -c 1-64)
  key=$(printf 'AWS4%s' "$(field SecretAccessKey)" | od -An -v -tx1 | tr -d ' \n')
  printf -v text 'AWS4-HMAC-SHA256\n%s\n%s\n%s' "$now" "$scope" "$text"
  for word in "${now%T*}" "$region" s3 aws4_request "$text"; do key=$(hmac "$key" "$word"); done
  fetch_url -X PUT -d '' -H Content-Type: -H "x-amz-content-sha256: $1" -H "x-amz-date: $now" \
    -H "x-amz-security-token: $2" -H "Authorization: AWS4-HMAC-SHA256 Credential=$(
      field AccessKeyId
    )/$scope, SignedHeaders=$names, Signature=$key" "$base$path"
}

report() { # STAGE MESSAGE
  { [ -n "$python" ] && bootstrap 90 report "$1" "$2"; } || report_by_curl "$1" "$2"
}

ended() {
  code=$?
  trap - EXIT
  set +e
  if [ "$code" != 0 ]; then
    set -- "$(last_words)"
    set -- "exit code $code${1:+: $1}"
    [ "$stage: $1" != 'internal: exit code 137' ] || set -- 'the runner was killed (137)'
    [ "$stage" = bootstrap ] || bootstrap 60 flush "$dir" 2>&1
    report "$stage" "$1"
  fi
  [ -z "$sleeper" ] || kill "$sleeper"
  power_off
  exit "$code"
}

# What systemd runs, however the runner ends, and when the machine has lived too long.
after_unit() {
  if [ "$EXIT_CODE:$EXIT_STATUS" != exited:0 ]; then
    set -- "$(last_words)"
    set -- "the runner's unit: $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS${1:+: $1}"
    tail -n 30 "$dir/error" # for the instance's console output
    bootstrap 60 flush "$dir" 2>&1
    report internal "$1"
  fi
  power_off
}

after_deadline() {
  report internal "the $1 of the machine is over, and nothing else has ended it"
  power_off
}

# cloud-init does not run this script again, so whoever starts the machine again has nothing but this.
after_reboot() {
  [ "$identity" = "$(hardware)" ] || return 0 # a machine that was made of this one's image
  report internal "the machine was started again, and its runner is gone"
  power_off
}

hardware() {
  cat /sys/class/dmi/id/product_uuid 2> /dev/null || :
}

guard_reboot() {
  local units=/etc/systemd/system
  : > /run/dstackd-lives
  mkdir -p "$units/multi-user.target.wants"
  printf '%s\n' '[Unit]' ConditionPathExists=!/run/dstackd-lives Wants=network-online.target \
    After=network-online.target '[Service]' Type=oneshot TimeoutStartSec=300 \
    "ExecStart=/bin/bash $dir/end.sh after_reboot" > "$units/dstackd-rebooted.service"
  ln -sf ../dstackd-rebooted.service "$units/multi-user.target.wants/"
}

write_end() {
  {
    declare -p local_cloud systemd dir python identity "${!AWS_ENDPOINT_URL@}"
    declare -f power_off force_off timer bounded bootstrap last_words hmac fetch_url report_by_curl report
    declare -f after_unit after_deadline after_reboot hardware
    echo '"$@"'
  } > "$dir/end.sh"
}

deadline() { # NAME SECONDS
  if [ -n "$systemd" ]; then
    timer "$1" "$2" after_deadline "$1"
  else
    (
      sleep "$2" &
      trap 'kill $!' TERM
      wait $! && /bin/bash "$dir/end.sh" after_deadline "$1"
    ) > "$dir/deadline" 2>&1 < /dev/null &
    sleeper=$!
  fi
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9; do
    if "$name" -c 'import sys, ssl; sys.exit(sys.version_info < (3, 9))' 2>> "$dir/error"; then
      python=$(command -v "$name")
      return 0
    fi
  done
  return 1
}

install_python() {
  local wait_s
  if [ -n "$local_cloud" ] || [ "$(id -u)" != 0 ]; then return 1; fi
  export DEBIAN_FRONTEND=noninteractive
  for wait_s in 3 10 0; do # at boot, others hold the package manager's lock
    if command -v apt-get > /dev/null; then
      bounded 120 apt-get -q -o DPkg::Lock::Timeout=60 update &&
        bounded 180 apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends python3
    else
      bounded 180 dnf -q -y install python3
    fi >> "$dir/error" 2>&1 < /dev/null && find_python && return 0
    sleep "$wait_s"
  done
  return 1
}

start_unit() {
  local name
  set --
  for name in "${!AWS_ENDPOINT_URL@}"; do set -- "$@" "--setenv=$name=${!name}"; done
  # ExecStopPost is the trap of the unit. The job's OOM is the job's own end; see its cgroup.
  systemd-run --quiet --no-block --collect --unit dstackd-runner "$@" \
    -p Type=notify -p NotifyAccess=main -p WatchdogSec=90 -p WatchdogSignal=SIGKILL \
    -p RuntimeMaxSec="$lifetime" -p TimeoutStartSec=120 -p TimeoutStopSec="$stop_s" \
    -p KillMode=mixed -p Delegate=yes -p TasksMax=infinity -p OOMPolicy=continue \
    -p OOMScoreAdjust=-500 -p StandardOutput=journal+console -p StandardError="append:$dir/error" \
    -p ExecStopPost="/bin/bash $dir/end.sh after_unit" \
    "$python" -I -X utf8 "$dir/runner.pyz"
}

trap ended EXIT
# When the machine goes down, wait for the runner: its exit code is what counts here.
trap : TERM

mkdir -p "$dir"
identity=$(hardware)
write_end
# Where systemd does not do what it is asked, this script watches the runner itself.
[ -z "$systemd" ] || { guard_reboot && deadline boot 3600; } || systemd=
find_python || install_python

cat > "$dir/bootstrap.py" << 'PYTHON'
import hashlib, hmac, http.client, json, os, sys, time, urllib.parse, urllib.request
from urllib.error import HTTPError

IMDS = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
ENDPOINT = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def send(method, url, headers, body=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with open_url(request, timeout=20) as answer:
            return answer.read()
    except HTTPError as error:
        body = error.read(300)
        text = f"{error.code} {body!r} for {method} {urllib.parse.urlsplit(url).path}"
        if b"NoSuchKey" in body:
            sys.exit("dstackd: " + text)  # waiting does not help
        raise OSError(text) from None


def metadata():
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    token = {"X-aws-ec2-metadata-token": send("PUT", IMDS + "/latest/api/token", ttl).decode()}
    return lambda path: send("GET", IMDS + "/latest/meta-data/" + path, token).decode()


def s3(look, method, key, body=b""):
    bucket, region = look("tags/instance/dstack_bucket"), look("placement/region")
    roles = "iam/security-credentials/"
    role = json.loads(look(roles + look(roles).split()[0]))
    domain = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    in_path = ENDPOINT or "." in bucket
    base = ENDPOINT or f"https://{domain if in_path else bucket + '.' + domain}"
    url = base.rstrip("/") + (f"/{bucket}/" if in_path else "/") + urllib.parse.quote(key)
    host, path = urllib.parse.urlsplit(url)[1:3]
    now, digest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    headers["x-amz-security-token"] = role["Token"]
    names, scope = ";".join(headers), f"{now[:8]}/{region}/s3/aws4_request"
    lines = "".join(f"{name}:{headers[name]}\n" for name in headers)
    asked = f"{method}\n{path}\n\n{lines}\n{names}\n{digest}".encode()
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked).hexdigest()}"
    secret = ("AWS4" + role["SecretAccessKey"]).encode()
    for word in [*scope.split("/"), to_sign]:
        secret = hmac.new(secret, word.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={role['AccessKeyId']}/{scope}, "
        f"SignedHeaders={names}, Signature={secret.hex()}"
    )
    return send(method, url, headers, body if method == "PUT" else None)


def fetch(folder):
    look = metadata()
    digest = look("tags/instance/dstackd:runner")
    content = s3(look, "GET", f"dstackd/runner/{digest}.pyz")
    if hashlib.sha256(content).hexdigest() != digest:
        sys.exit(f"dstackd: the runner in the bucket is not {digest}")
    with open(folder + "/runner.pyz", "wb") as file:
        file.write(content)
    if "dstackd:lifetime" in look("tags/instance/").split():
        print(int(look("tags/instance/dstackd:lifetime")))


def flush(folder):
    sys.path.insert(0, folder + "/runner.pyz")
    from dstackd.runner.flush import flush

    flush(folder, environ=os.environ)


def report(stage, message):
    look = metadata()
    text = " ".join(message.encode("ascii", "replace").decode().split())[:160]
    words = ["999999", "failed", "-", "0", stage, text]
    name = "!".join(urllib.parse.quote(word, safe="").replace("%", "=") for word in words)
    s3(look, "PUT", f"dstackd/inbox/{look('instance-id')}/{name}")


# Tags and a new role's permissions may take a while to be seen; so may the network.
patience_s = 240 if sys.argv[1] == "fetch" else 60
end, wait = time.monotonic() + patience_s, 0.2
while True:
    try:
        sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        print("dstackd:", error, file=sys.stderr)
        if time.monotonic() + wait > end:
            sys.exit(1)
    time.sleep(wait)
    wait = min(wait * 2, 8)
PYTHON

found=$(bootstrap 300 fetch "$dir" 2> "$dir/error")
stage=internal
[ -z "$found" ] || lifetime=$found
lifetime=$((lifetime > SECONDS ? lifetime - SECONDS : 1))
write_end
deadline lifetime $((lifetime + stop_s + margin_s)) || :
if [ -n "$systemd" ] && start_unit; then
  trap - EXIT
  systemctl stop dstackd-boot.timer || :
elif command -v timeout > /dev/null; then
  timeout --foreground --preserve-status -k "$stop_s" "$lifetime" \
    "$python" -I -X utf8 "$dir/runner.pyz" 2> "$dir/error"
else
  "$python" -I -X utf8 "$dir/runner.pyz" 2> "$dir/error"
fi
