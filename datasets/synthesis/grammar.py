"""The words and sentences of the synthesised corpora.

A Grammar is a set of word classes and sentence patterns. `Sentences` draws from it evenly: each class is shuffled, used
up and shuffled again, so that all words of a class occur about equally often. The split of a sentence is determined by
a hash of its words, so that no sentence can occur in both splits, regardless of how many are drawn.

Drawing uses only `Random.random()`, the one method whose sequence Python guarantees not to change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path
from random import Random
from typing import TypeVar

from common.errors import UserError

TRAIN, VAL = "train", "val"
LISTED_SHA256 = "3debbd2bbb9f4f1972520d30f6c29d91b6a202144ced1c07ecbc9f57bfc013fa"
"""SHA-256 of the words taken from `wonderwords` 3.0.1."""
Item = TypeVar("Item")

MINI_CLASSES = """
name: alice anna arthur barbara daniel edward emma frank george hannah henry jacob laura martin mary oliver peter robert
  sarah simon thomas victor
animal: bear bird camel cat cow dog duck eagle elephant fish fox frog goat horse kitten lion monkey mouse rabbit
  sheep spider tiger turtle wolf
thing: apple basket blanket book bottle box candle carpet clock cup hammer hat jacket key knife lamp letter mirror picture
  paper pencil wallet plate potato ring shoe spoon table ticket umbrella window
place: attic beach bridge castle church city corner farm forest garden harbour hospital island kitchen library market
  mountain museum office park river school station theatre tower valley village
person: baker captain doctor farmer king lawyer painter pilot queen sailor singer soldier teacher
adjective: big black blue broken brown cheap cold empty fat fresh golden green heavy hungry lazy long new old orange
  pretty purple quiet red round small strange strong tall thin warm white wooden yellow young
did: bought broke carried dropped found hid lost noticed painted sold stole touched wanted washed
went: arrived danced jumped laughed slept smiled swam talked waited walked whispered worked stayed whistled
adverb: again early happily late quietly slowly suddenly together today tomorrow tonight yesterday
number: two three four five six seven eight nine ten eleven twelve twenty fifty hundred
day: monday tuesday wednesday thursday friday saturday sunday
part: morning evening afternoon
near: behind above beside inside under near across
do: bring clean copy give hold open show take
how: always never often sometimes
"""

MINI_PATTERNS = """
on day the adjective animal went
name did the adjective thing
name and name went adverb
the person did my adjective thing
put the thing near the place
where is the adjective thing
animal number and thing number
name how did the place
please do the thing adverb
the animal is near the thing
is the place adjective
day part name did the thing
we went from place to place
my person is very adjective
the adjective animal went adverb
name went
the person and the animal
do the thing to the animal
place number
"""

# Words in a pattern that are not class names are spoken literally. Class names need no markup, because no literal word
# is also a class name.

FULL_EXTRA = """
name: adam agnes albert amelia andrew charlotte clara david eleanor ernest florence gilbert grace harold helen isabel
  james jane john joseph julia katherine lewis lucy margaret michael nathan nicholas patrick paul philip rachel
  rebecca richard rosa samuel sophia stephen susan walter william
animal: badger bat bee beetle buffalo butterfly calf chicken crab crow deer dolphin donkey falcon hawk hen hound lamb
  leopard lizard moth otter owl ox parrot pig pigeon pony raven salmon seal shark snail snake sparrow squirrel swan toad
  whale zebra
thing: anchor arrow axe banner barrel bell belt boat bowl bracelet brush bucket button cabin carriage chain chair chest
  coat coin compass cradle crown cushion dagger desk diamond drum feather fiddle flag flute fork furnace glove hook
  jewel journal kettle ladder lantern leaf lock map mask medal necklace needle novel paddle parcel pillow pipe pistol
  pocket portrait purse ribbon rifle saddle scarf shelf shield shovel silver statue stone sword telescope tent thread
  torch treasure trumpet trunk vase violin wagon wheel whistle
place: abbey avenue bakery balcony barn bay canyon cave cellar chamber chapel cliff coast college cottage court desert
  factory fountain gate grove hall hill hotel inn lake lane meadow mill monastery orchard palace pasture path pier
  plain prairie prison ranch road ruin shore shrine stable square swamp temple terrace tunnel university wharf
person: actor admiral artist aunt banker barber beggar bishop boy brother butcher carpenter chief clerk colonel cook
  cousin daughter duke emperor engineer father gardener general girl guard guest hunter judge knight lady maid major
  merchant messenger miner minister monk mother neighbour nurse officer peasant poet porter priest prince princess
  scholar servant shepherd sheriff sister stranger tailor thief traveller uncle widow wizard
adjective: ancient angry awful bare bitter bold brave bright calm careful charming clever common crooked cruel curious
  dark deep delicate distant dreadful dusty eager elegant faded faint famous fierce foolish foreign gentle gloomy
  graceful grand grey grim handsome happy hollow honest humble immense lonely lovely mighty modest muddy mysterious
  narrow noble pale patient plain pleasant polished poor precious proud ragged rare rich rough royal rude rusty sacred
  sad secret shining silent simple slender smooth soft solemn splendid steady stern stout sudden sweet swift terrible
  timid tiny tired ugly useful vast wicked wide wild wise worn
did: admired answered blessed borrowed brought built burned caught chose collected crossed described discovered
  examined followed forgot gathered guarded helped imagined kept lifted loved measured mended missed observed opened
  praised pulled pushed raised received refused repaired saved seized served stopped studied trusted visited watched
went: ascended began bowed breathed climbed crept cried departed dreamed escaped fell fled floated galloped hesitated
  knelt lingered listened paused prayed ran rested returned rode rose sailed sang sat shivered shouted sighed spoke
  stood stumbled trembled turned vanished wandered wept whispered worked
adverb: abroad alone already anxiously away bravely calmly carefully cheerfully eagerly everywhere forever gently
  gladly gravely hastily indeed loudly merrily nearly often once patiently perhaps politely quickly sadly seldom softly
  somewhere soon steadily swiftly thoughtfully twice warmly wearily
number: thirty forty sixty seventy eighty ninety thousand
part: dawn midnight noon sunset
near: above against along around before beneath between beyond outside over through toward upon within
do: burn carry count draw fetch find follow forget hide keep leave lift mend move paint pass raise read sell send
  turn wash watch
how: certainly hardly rarely usually
what: beauty courage danger death duty fear fortune freedom friendship glory grief history honour hope justice
  kindness knowledge labour liberty love memory mercy music nature peace pleasure power pride reason sorrow strength
  truth virtue wisdom wonder youth
season: autumn spring summer winter
"""

FULL_PATTERNS = """
adjective thing and adjective thing went adverb near the place
when the adjective person went name did adjective thing
there was adjective thing in the adjective place
what and thing are the thing of adjective person
in season name and name do adjective thing
he did thing because she did adjective thing
they do adjective thing and do adjective thing
it was not thing but adjective thing
no thing is as adjective as adjective thing
we do and do thing until part
if you do thing i will do animal and thing
at part on day name and name did thing
name said that person had did adjective thing
number adjective animal went from thing to place
thing near thing and thing beyond thing
please do adverb and do adjective thing
thing thing and thing
adjective adjective thing did adjective person
without thing there is no thing
adjective thing or adjective thing
some do thing while person do adjective thing
adverb do every thing of name
how they do thing adverb
first thing then thing and adverb adjective thing
do thing
"""


@dataclass(frozen=True)
class Grammar:
    """Word classes and sentence patterns; each item of a pattern is a class name or a literal word."""

    classes: dict[str, tuple[str, ...]]
    patterns: tuple[tuple[str, ...], ...]

    def words(self) -> frozenset[str]:
        """Every word that may occur in a sentence, in upper case."""
        spoken = {item.upper() for pattern in self.patterns for item in pattern if item not in self.classes}
        used = {item for pattern in self.patterns for item in pattern if item in self.classes}
        return frozenset(spoken | {word for name in used for word in self.classes[name]})


class Sentences:
    """An endless stream of sentences with evenly distributed words; the same `seed` gives the same stream."""

    def __init__(self, grammar: Grammar, seed: str) -> None:
        self._grammar = grammar
        self._random = Random(seed)
        self._packs: dict[str, list[str]] = {name: [] for name in grammar.classes}
        self._patterns: list[tuple[str, ...]] = []

    def draw(self, split: str) -> str:
        """The next sentence of `split` (TRAIN or VAL), upper case, words separated by single spaces."""
        while True:
            if not self._patterns:
                self._patterns = shuffled(self._grammar.patterns, self._random)
            sentence = " ".join(self._word(item) for item in self._patterns.pop())
            if split_of(sentence) == split:
                return sentence

    def _word(self, item: str) -> str:
        if item not in self._packs:
            return item.upper()
        if not self._packs[item]:
            self._packs[item] = shuffled(self._grammar.classes[item], self._random)
        return self._packs[item].pop()


def split_of(sentence: str) -> str:
    """The split of a sentence, from the SHA-256 of its words: one sentence in six is for validation."""
    return VAL if hashlib.sha256(sentence.encode()).digest()[0] % 6 == 0 else TRAIN


def shuffled(items: Sequence[Item], random: Random) -> list[Item]:
    """A shuffled copy of `items` (Fisher-Yates)."""
    pack = list(items)
    for last in range(len(pack) - 1, 0, -1):
        other = int(random.random() * (last + 1))
        pack[last], pack[other] = pack[other], pack[last]
    return pack


def mini() -> Grammar:
    """The small grammar: about 250 words, 19 patterns, sentences of 2 to 6 words."""
    return _parse(MINI_CLASSES, MINI_PATTERNS)


@cache
def full(share: float = 1.0) -> Grammar:
    """The large grammar: the words of the small one, several hundred more, and a `share` of those of `wonderwords`.

    A smaller corpus uses a smaller share, so that each word occurs as often in it as in the full-size corpus.
    """
    own = _parse(MINI_CLASSES + FULL_EXTRA, FULL_PATTERNS)
    classes = dict(own.classes)
    for name, words in _wonderwords().items():
        chosen = shuffled(words, Random(f"wonderwords/{name}"))[: round(share * len(words))]
        classes[name] = tuple(dict.fromkeys([*classes[name], *chosen]))
    return Grammar(classes, own.patterns)


def _wonderwords() -> dict[str, list[str]]:
    """The nouns, adjectives and verbs of the package `wonderwords` (MIT), in upper case, by the class that they extend.

    UserError if the package's words are not those that the corpus is made from.
    """
    profane = set(_word_list("profanitylist"))
    lists = {"thing": "nounlist", "adjective": "adjectivelist", "do": "verblist"}
    listed = {
        name: sorted(
            {word.upper() for word in _word_list(file) if re.fullmatch("[a-z]{3,}", word) and word not in profane}
        )
        for name, file in lists.items()
    }
    if hashlib.sha256(repr(listed).encode()).hexdigest() != LISTED_SHA256:
        raise UserError(
            f"the word lists of wonderwords {version('wonderwords')} are not those that the corpus is made from",
            remedy="install the version in requirements.lock",
        )
    return listed


def _word_list(name: str) -> list[str]:
    # The files are read directly: importing the package would read every list, in each of hundreds of processes.
    path = distribution("wonderwords").locate_file(f"wonderwords/assets/{name}.txt")
    return Path(str(path)).read_text(encoding="utf-8").split("\n")


def _parse(classes: str, patterns: str) -> Grammar:
    """Parse `class: word word` lines (an indented line continues the class) and one pattern per line."""
    words: dict[str, list[str]] = {}
    name = ""
    for line in classes.strip().splitlines():
        if not line.startswith(" "):
            name, _, line = line.partition(":")
        words.setdefault(name, []).extend(line.upper().split())
    return Grammar(
        {name: tuple(dict.fromkeys(members)) for name, members in words.items()},
        tuple(tuple(line.split()) for line in patterns.strip().splitlines()),
    )
