"""Types in what docs/guides.md says, in an empty folder:  python -m tests.cli.guides [FOLDER]"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "guides.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    """Ends at the first block that fails."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in BLOCKS:
        began = time.monotonic()
        print(block, flush=True)
        subprocess.run(["bash", "-euc", block], cwd=folder, env={**os.environ, "PATH": path}, check=True)
        print(f"-- {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
