"""Settings that are refused in one voice."""

from gradgrad.errors import UsageError


class CheckedSizes:
    """A datamodule that can check its own sizes."""

    def check_sizes(self, *names: str, least: int = 1) -> None:
        """Refuse sizes that are too small.

        Args:
            names: of attributes.
            least: the smallest that can be used.

        Raises:
            UsageError: one is smaller.
        """
        for name in names:
            if getattr(self, name) < least:
                got = f"{type(self).__name__} got {name} {getattr(self, name)}"
                raise UsageError(f"{got}.\nwrite: data.init_args.{name}, at least {least}")
