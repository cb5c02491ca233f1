"""Values that absl has no parser for: several of a kind, with commas between them."""

from typing import Any

from absl import flags


class Integers(flags.ArgumentParser):
    """Integers with commas between them."""

    syntactic_help = "integers with commas between them"

    def parse(self, argument: Any) -> tuple[int, ...]:
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(int(number) for number in argument.split(","))
        except ValueError as error:
            raise ValueError("it takes integers with commas between them") from error


class Listed(flags.ArgumentParser):
    """Values of an option with commas between them; where one has commas itself, semicolons."""

    def __init__(self, of_one: flags.ArgumentParser) -> None:
        self.of_one = of_one
        self.separator = ";" if isinstance(of_one, Integers) else ","
        self.syntactic_help = f"values with `{self.separator}` between them"

    def parse(self, argument: Any) -> list[Any]:
        values = argument.split(self.separator) if isinstance(argument, str) else argument
        return [self.of_one.parse(value) for value in values]

    def wrong(self, argument: str) -> str:
        """The first value that is none."""
        for value in argument.split(self.separator):
            try:
                self.of_one.parse(value)
            except (TypeError, ValueError):
                return value
        return argument
