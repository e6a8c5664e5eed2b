"""The devices of a population: arrays over clients, so that a million of them are a few arrays."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.devices.availability import Ids, Mask, Moment, Presence
from fedsim.devices.rates import Floats, Trait, Traits
from fedsim.devices.settings import Devices


@dataclass(frozen=True)
class Load:
    """What a round asks of clients: examples ``[clients]`` to train on, bytes to receive and to send (each)."""

    examples: Floats
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Fleet:
    """Every client's device: examples per second, bytes per second up and down ``[clients]``, and who is there when."""

    settings: Devices
    speed: Floats
    upload: Floats
    download: Floats
    presence: Presence
    draw_seed: int

    @classmethod
    def of(cls, settings: Devices, clients: int, seed: int, draw_seed: int) -> Fleet:
        """Draw the devices of so many clients; raises ``BadInput`` for traces that cannot be used.

        Devices follow from ``seed``, what happens in rounds from ``draw_seed``.
        """

        def traits(name: str, trait: Trait) -> Traits:
            return Traits(seed, clients, f"devices.{name}", trait)

        return cls(
            settings=settings,
            speed=settings.compute.of_clients(traits("compute", Trait.COMPUTE)),
            upload=settings.upload.of_clients(traits("upload", Trait.UPLOAD)),
            download=settings.download.of_clients(traits("download", Trait.DOWNLOAD)),
            presence=settings.availability.presence(traits("availability", Trait.PHASE)),
            draw_seed=draw_seed,
        )

    def __len__(self) -> int:
        return len(self.speed)

    def seconds_to_train(self, clients: Ids, load: Load) -> Floats:
        """Seconds until each client has its update ready ``[clients]``: latency, download and training."""
        received = load.bytes_down / self.download[clients]
        return self.settings.latency_seconds + received + load.examples / self.speed[clients]

    def seconds_to_send(self, clients: Ids, load: Load) -> Floats:
        """Seconds that each client's upload takes ``[clients]``."""
        return load.bytes_up / self.upload[clients]

    def available(self, clients: Ids, round_: int, seconds: float, attempt: int = 0) -> Mask:
        """Which of ``clients`` are there ``[clients]``, when the round's server asks for the ``attempt``-th time."""
        return self.presence(clients, Moment(seconds, self.draw_seed, len(self), round_, attempt))
