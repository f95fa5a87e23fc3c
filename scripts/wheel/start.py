"""Starts difflow's programs, which are in bin/ beside this file; difflow has no Python interface."""

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    """Becomes the program that this was called as."""
    # The dora command is beside the one that was called, also where the environment is not active.
    folder = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if folder not in path.split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + path
    # The programs look for libtorch in the package beside this one. It may be elsewhere: in the system's Python, say.
    if not (HERE.parent / "torch").is_dir():
        torch = find_spec("torch")
        if torch is None:
            sys.exit("difflow: error: PyTorch is not installed; pip install brings it with difflow, without --no-deps")
        libraries = [str(Path(torch.origin).parent / "lib"), os.environ.get("LD_LIBRARY_PATH")]
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    os.execv(HERE / "bin" / Path(sys.argv[0]).name, sys.argv)
