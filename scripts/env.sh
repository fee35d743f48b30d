# To be sourced: enters the environment that scripts/setup prepared. Source tree first, then the built messages.
# shellcheck shell=bash

_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
_venv=${OPENVLA_VENV:-$_root/.venv}
if [ ! -x "$_venv/bin/python" ]; then
  echo "$_venv is not there yet. Run first: scripts/setup" >&2
  return 1
fi
_messages=$_venv/openvla_ros/install
_site=$("$_venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib", vars={"base": ""}))')

export OPENVLA_VENV=$_venv VIRTUAL_ENV=$_venv
export PATH="$_venv/bin:$PATH"
if grep -qs '^ros' "$_venv/openvla_ros/mode"; then
  if [ -z "${ROS_DISTRO:-}" ]; then
    echo "This environment uses the machine's ROS 2. Run first: source /opt/ros/<distribution>/setup.bash" >&2
    return 1
  fi
  # shellcheck disable=SC1091
  case $- in *u*) set +u; . "$_messages/local_setup.bash"; set -u ;; *) . "$_messages/local_setup.bash" ;; esac
  export PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
else
  # Another ROS 2 in these paths would be mixed with the wheels, so nothing of it is kept.
  export PYTHONPATH="$_root:$_messages$_site"
  export AMENT_PREFIX_PATH="$_messages:$_venv"
  _libraries=$_messages/lib:$_venv/lib
  for _folder in "$_venv$_site"/ros_*.libs; do _libraries=$_libraries:$_folder; done
  _others=$(printf '%s' "${LD_LIBRARY_PATH:-}" | tr ':' '\n' | sed -E '/^$|\/opt\/ros\/|ros_[a-z_]*\.libs$|\/openvla_ros\/install\//d' | paste -sd:)
  export LD_LIBRARY_PATH="$_libraries${_others:+:$_others}"
  # The wheels restart every Python to set the library path, in random order. It is set already: no restart.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
fi
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
export MUJOCO_GL=${MUJOCO_GL:-egl}
export LP_NUM_THREADS=${LP_NUM_THREADS:-0}  # Mesa draws small pictures faster without threads of its own
unset _root _venv _messages _site _libraries _folder _others
