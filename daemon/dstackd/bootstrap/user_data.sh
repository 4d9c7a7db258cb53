#!/bin/bash
# dstackd: fetch the runner, check it, run it; then end this machine, whatever happened.
# One text for every launch: all that differs is in the instance's own tags.
set -eu
local_cloud=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-}
if [ -n "$local_cloud" ]; then dir=$PWD/dstackd; else dir=/var/lib/dstackd; fi
python=
stage=bootstrap

power_off() {
  off=$(command -v shutdown || echo /sbin/shutdown)
  # On a computer that only plays a machine, the real command is never called.
  case "$local_cloud:$off" in :*) ;; *:/bin/* | *:/sbin/* | *:/usr/*) return 0 ;; esac
  "$off" -h now
}

ended() {
  code=$?
  trap - EXIT
  set +e
  if [ "$code" != 0 ] && [ -n "$python" ]; then
    "$python" -I -X utf8 "$dir/bootstrap.py" report "$stage" "exit code $code: $(tail -n 1 "$dir/error" 2>&1)"
  fi
  power_off
  exit "$code"
}
trap ended EXIT
# When the machine goes down, wait for the runner: its exit code is what counts here.
trap : TERM

mkdir -p "$dir"
for name in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
  if "$name" -c 'import sys, ssl; sys.exit(sys.version_info < (3, 9))' 2>> "$dir/error"; then
    python=$(command -v "$name")
    break
  fi
done
[ -n "$python" ]

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


def fetch(target):
    look = metadata()
    digest = look("tags/instance/dstackd:runner")
    content = s3(look, "GET", f"dstackd/runner/{digest}.pyz")
    if hashlib.sha256(content).hexdigest() != digest:
        sys.exit(f"dstackd: the runner in the bucket is not {digest}")
    with open(target, "wb") as file:
        file.write(content)


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

"$python" -I -X utf8 "$dir/bootstrap.py" fetch "$dir/runner.pyz" 2> "$dir/error"
stage=internal

if [ -z "$local_cloud" ] && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then
  # ExecStopPost is the trap of the unit: it runs however the runner ends.
  cat > "$dir/after.sh" << AFTER
[ "\$SERVICE_RESULT" = success ] ||
  timeout 60 "$python" -I -X utf8 "$dir/bootstrap.py" report internal "the runner's unit: \$SERVICE_RESULT"
shutdown -h now || /sbin/shutdown -h now
AFTER
  systemd-run --unit dstackd-runner --collect -p KillMode=mixed -p TimeoutStopSec=90 \
    -p TasksMax=infinity -p ExecStopPost="/bin/bash $dir/after.sh" \
    "$python" -I -X utf8 "$dir/runner.pyz"
  trap - EXIT
else
  "$python" -I -X utf8 "$dir/runner.pyz" 2> "$dir/error"
fi
