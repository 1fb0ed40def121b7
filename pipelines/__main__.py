"""The entry point of `mmm4rec`. It sets the signal handlers before any slow import."""

from pipelines.signals import end_commands


def main() -> None:
    """Run the command line."""
    end_commands()
    from pipelines.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
