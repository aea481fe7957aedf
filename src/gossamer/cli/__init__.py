"""The command line: ``gossamer COMMAND``; each command is one small module here.

Nothing here imports torch when it is itself imported, so that ``inspect``, ``verify`` and ``diff`` start at once.
"""


def main() -> None:
    """Run the command line on ``sys.argv``; exits with 0 (done), 1 (a check failed) or 2 (a mistake of the user)."""
    from gossamer.cli.app import app

    app(prog_name="gossamer")
