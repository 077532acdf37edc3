"""The command line: one parser, one module a command, loaded when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from fastpath._version import __version__
from fastpath.errors import Error

DONE, DID_NOT_HOLD, WRONG_USAGE = 0, 1, 2

_COMMANDS = {
    "demo": "the founding story, end to end, on real parts",
    "serve": "registry and DNS until Ctrl-C",
    "register": "register an instance with a running `serve`",
    "deregister": "take an instance out of a running `serve`",
    "services": "list the services of a running `serve`",
    "resolve": "ask a running `serve` who answers for a name",
    "lookup": "look addresses up in a routing table",
    "bench": "measure fastpath beside its peers",
    "info": "build, CPU features, what is available here and what is not, and why",
}
_MODULE_OF = {"register": "client", "deregister": "client", "services": "client", "resolve": "client"}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The complete parser of one command, with an example in its help."""
    module = importlib.import_module(f"fastpath.cli.{_MODULE_OF.get(command, command)}")
    example: str = module.EXAMPLES[command]
    parser = argparse.ArgumentParser(
        prog=f"fastpath {command}",
        description=_COMMANDS[command][0].upper() + _COMMANDS[command][1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command, parser)
    parser.set_defaults(run=module.run, command=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (0 done, 1 did not hold, 2 wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    top = argparse.ArgumentParser(
        prog="fastpath",
        description="A forwarding and balancing engine that a Python program can embed.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in _COMMANDS.items())
        + "\n\nexample:\n  fastpath demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastpath {__version__}")
    top.add_argument("command", choices=_COMMANDS, metavar="command", help="one of the commands below")
    top.add_argument("arguments", nargs=argparse.REMAINDER, help="`fastpath COMMAND --help` explains them")
    for stream in ("stdin", "stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller (`>&-`)
            setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w"))  # noqa: SIM115
    try:
        command = top.parse_args(arguments[:1]).command
        options = parser_of(command).parse_args(arguments[1:])
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else WRONG_USAGE
    except KeyboardInterrupt:
        return 130
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`): nothing is wrong, and nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (Error, OSError, ValueError, TypeError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"fastpath {command}: {text}", file=sys.stderr)
        return DID_NOT_HOLD
    return status
