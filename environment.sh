#!/bin/sh
# Builds .venv from a hashed lock file, and does nothing when it is up to date.
#
#   ./environment.sh runtime   what `make demo` needs
#   ./environment.sh test      that, and what `make test` and `make check` need
#
# PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")"

say() { echo "environment: $*" >&2; }
stop() {
  say "$*"
  exit 1
}

kind=${1:-runtime}
case $kind in
  runtime) lock=requirements.lock ;;
  test) lock=requirements-test.lock ;;
  *) stop "unknown kind '$kind'; it is 'runtime' or 'test'" ;;
esac
[ -f "$lock" ] || stop "$lock is missing; run this in a varjax checkout"

# Content, not dates: a fresh clone or a checkout must not rebuild anything.
content=$(cat "$lock" setup.py | cksum)
stamp=.venv/.varjax-$kind
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$content" ]
then
  exit 0
fi

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Sets `python` to the first interpreter that can build the environment, or
# stops with the reason that comes closest to success.
find_python() {
  found=''
  without_venv=''
  for candidate in ${PYTHON:-python3.12 python3.11 python3 python}; do
    version=$(version_of "$candidate") || continue
    case $version in
      3.11 | 3.12) ;;
      *)
        found="$found $candidate is $version,"
        continue
        ;;
    esac
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      python=$candidate
      return
    fi
    without_venv="$candidate has no venv or pip module; install it (Debian \
and Ubuntu: apt install python$version-venv) or set PYTHON=/path/to/python3.12"
  done
  [ -z "$without_venv" ] || stop "$without_venv"
  if [ -n "$found" ]; then
    stop "varjax needs Python 3.11 or 3.12, but${found%,};" \
      "install one or set PYTHON=/path/to/python3.12"
  fi
  stop "no Python was found (${PYTHON:-python3.12, python3.11, python3});" \
    "install Python 3.11 or 3.12 or set PYTHON=/path/to/python3.12"
}

usable() {
  case $(version_of .venv/bin/python) in
    3.11 | 3.12) .venv/bin/python -m pip --version >/dev/null 2>&1 ;;
    *) false ;;
  esac
}

# An interrupted build leaves no stamp, and perhaps no pip: start again then.
if ! usable; then
  find_python
  say "creating .venv with $python ($(version_of "$python"))"
  "$python" -m venv --clear .venv ||
    stop "$python -m venv failed, its message is above"
fi

say "installing $lock (about 1 GB; well under a minute on a good connection)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --no-compile --require-hashes -r "$lock" ||
  stop "pip could not install $lock, its message is above; a package that" \
    "has to be compiled has no wheel for this platform and needs a C" \
    "compiler (Debian and Ubuntu: apt install build-essential)"
# On all cores, which pip does not do, and even where PYTHONDONTWRITEBYTECODE
# is set: importing jax from source costs each process several seconds. A
# template that is not valid Python fails here and is never imported.
.venv/bin/python -m compileall -q -j 0 -x '/(tests|testing)/' \
  .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --no-deps --no-build-isolation -e . ||
  stop "pip could not install varjax itself, its message is above"

if [ "$kind" = test ]; then
  # The test lock contains the runtime lock.
  cat requirements.lock setup.py | cksum >.venv/.varjax-runtime
fi
echo "$content" >"$stamp"
