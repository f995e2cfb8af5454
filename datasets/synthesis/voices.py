"""Generated speakers, and the speech synthesiser: espeak-ng, through ctypes on the `espeakng-loader` wheel.

A speaker is a variant file of espeak-ng (its formants, pitch, flutter, roughness, voicing, consonants, breath) and a
rate. espeak-ng has one voice and one random generator per process, and its output depends on what it said before. So
use one `Synthesiser` per process, and a fresh process for output that must be reproducible.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType

import numpy as np

from common.errors import UserError

ACCENT = "en-us"

# The files that espeak-ng reads for this accent; the rest of its 15 MB (other languages) would only slow its start.
_DATA_FILES = ("phondata", "phonindex", "phontab", "intonations", "en_dict", "lang/gmw/en-US")

# From speak_lib.h of espeak-ng 1.52.
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _VOLUME = 1, 2
VOLUME = 70  # per cent: at 100 some voices reach full scale
_RATE_RANGE = range(80, 451)
_MAX_PATH_BYTES = 120


@dataclass(frozen=True)
class Speaker:
    """One generated speaker.

    `formants` are percentages of espeak-ng's formant frequencies F0 to F8, `pitch_hz` the lowest and highest pitch of
    its intonation, `words_per_minute` the rate; the others are in espeak-ng's own units (docs/voices.md of espeak-ng).
    """

    id: str
    sex: str
    formants: tuple[int, ...]
    widths: int
    pitch_hz: tuple[int, int]
    flutter: int
    roughness: int
    voicing: int
    consonants: int
    breath: int
    words_per_minute: int

    def variant(self) -> str:
        """The text of this speaker's variant file."""
        lines = ["language variant", f"name speaker{self.id}", f"gender {self.sex}"]
        lines += [f"pitch {self.pitch_hz[0]} {self.pitch_hz[1]}"]
        lines += [f"formant {i} {percent} 100 {self.widths}" for i, percent in enumerate(self.formants)]
        lines += [f"flutter {self.flutter}", f"roughness {self.roughness}", f"voicing {self.voicing}"]
        lines += [f"consonants {self.consonants} {self.consonants}"]
        lines += ["breath " + " ".join([str(self.breath)] * 8)] if self.breath else []
        return "\n".join(lines) + "\n"


def draw_speaker(id: str, seed: str, rates: tuple[int, int] = (178, 212)) -> Speaker:
    """The speaker of number `id` (odd: female, even: male); the same arguments give the same speaker.

    `rates` is the range of the speaking rate, in words per minute.
    """
    random = Random(f"{seed}/speaker/{id}")

    def between(low: int, high: int) -> int:
        return low + int(random.random() * (high - low + 1))

    female = int(id) % 2 == 1
    tract = between(107, 117) if female else between(93, 104)
    low_hz = between(135, 180) if female else between(75, 115)
    return Speaker(
        id=id,
        sex="female" if female else "male",
        formants=tuple(tract + between(-3, 3) for _ in range(9)),
        widths=between(90, 120),
        pitch_hz=(low_hz, low_hz * between(130, 160) // 100),
        flutter=between(0, 5),
        roughness=between(0, 3),
        voicing=between(85, 115),
        consonants=between(85, 115),
        breath=between(0, 2),
        words_per_minute=between(*rates),
    )


class Synthesiser:
    """espeak-ng with the voice of one speaker; a context manager, once per process. `rate_hz` is its sample rate.

    `random_seed` seeds espeak-ng's random generator, which takes full effect only right after its start.
    """

    def __init__(self, speaker: Speaker, random_seed: int) -> None:
        if speaker.words_per_minute not in _RATE_RANGE:
            raise ValueError(f"espeak-ng cannot speak {speaker.words_per_minute} words per minute")
        self._samples: list[np.ndarray] = []
        self._failure: Exception | None = None
        self._library = _load_library()
        # espeak-ng has read all its files once the voice is chosen, so the temporary folder can be deleted here.
        with tempfile.TemporaryDirectory(prefix="voice-") as folder:
            _link_data(Path(folder), speaker)
            self.rate_hz = self._start(folder, random_seed)
            self._check("choose the voice", self._library.espeak_SetVoiceByName(f"{ACCENT}+speaker".encode()))
        self._check("set the rate", self._library.espeak_SetParameter(_RATE, speaker.words_per_minute, 0))
        self._check("set the volume", self._library.espeak_SetParameter(_VOLUME, VOLUME, 0))

    def __enter__(self) -> Synthesiser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()

    def say(self, text: str) -> np.ndarray:
        """`text` spoken, as int16 samples (samples,) at `rate_hz`."""
        self._samples.clear()
        spoken = text.lower().encode() + b"."
        self._check("speak", self._library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, _UTF8, None, None))
        self._check("finish", self._library.espeak_Synchronize())
        if self._failure:
            raise self._failure
        if not self._samples:
            raise UserError(f"espeak-ng gave no sound for {text!r}")
        return np.concatenate(self._samples)

    def _start(self, folder: str, random_seed: int) -> int:
        # espeak-ng stores its data path in 160 characters and silently truncates a longer one.
        if len(os.fsencode(folder)) > _MAX_PATH_BYTES:
            raise UserError(
                "the temporary folder's path is too long", where=folder, remedy="set TMPDIR to a shorter one"
            )
        rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(folder), _DO_NOT_EXIT)
        if rate_hz <= 0:
            raise UserError("espeak-ng does not start", where=folder, remedy="reinstall espeakng-loader")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(random_seed))
        # ctypes keeps no reference to a callback, so this object must keep it alive.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        return rate_hz

    def _receive(self, samples: object, count: int, _events: object) -> int:
        # An exception cannot pass through espeak-ng: `say` raises it, and returning 1 stops espeak-ng.
        try:
            if samples and count > 0:
                self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        except Exception as error:
            self._failure = error
            return 1
        return 0

    @staticmethod
    def _check(step: str, status: int) -> None:
        if status != 0:
            raise UserError(f"espeak-ng failed to {step} (error {status})", remedy="reinstall espeakng-loader")


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _load_library() -> ctypes.CDLL:
    import espeakng_loader

    path = espeakng_loader.get_library_path()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise UserError(
            f"the speech synthesiser cannot be loaded ({error})", where=path, remedy="reinstall espeakng-loader"
        ) from None
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _link_data(folder: Path, speaker: Speaker) -> None:
    """Make a data folder for espeak-ng in `folder`: links to its files, and `speaker` as the only variant."""
    import espeakng_loader

    source, target = Path(espeakng_loader.get_data_path()), folder / "espeak-ng-data"
    for name in _DATA_FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(source / name)
    (target / "voices/!v").mkdir(parents=True)
    (target / "voices/!v/speaker").write_text(speaker.variant())
