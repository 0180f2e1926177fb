"""What code may import: modules as they are, and modules of which it gets a choice of names."""

# ruff: noqa: SIM905 - long lists of words read best as text

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, TypeVar

Thing = TypeVar("Thing")

WHOLE = frozenset(
    """
    array base64 binascii bisect bz2 calendar cmath collections collections.abc colorsys configparser contextlib
    contextvars copy csv datetime decimal difflib enum errno fnmatch fractions gettext glob graphlib gzip hashlib heapq
    hmac html html.entities html.parser ipaddress itertools json json.decoder json.encoder keyword locale lzma math
    mimetypes numbers os.path pathlib posixpath pprint random re reprlib secrets stat statistics struct tarfile textwrap
    time tomllib unicodedata urllib.parse uuid xml xml.dom xml.dom.minidom xml.etree xml.etree.ElementTree zipfile zlib
    zoneinfo argparse urllib
    numpy numpy.char numpy.dtypes numpy.exceptions numpy.fft numpy.linalg numpy.ma numpy.polynomial
    numpy.polynomial.chebyshev numpy.polynomial.polynomial numpy.random numpy.rec numpy.strings numpy.typing
    pandas pandas.api pandas.api.extensions pandas.api.indexers pandas.api.types pandas.api.typing pandas.errors
    pandas.plotting pandas.testing pandas.tseries pandas.tseries.frequencies pandas.tseries.holiday
    pandas.tseries.offsets
    matplotlib matplotlib.animation matplotlib.artist matplotlib.axes matplotlib.axis matplotlib.cm
    matplotlib.collections matplotlib.colorbar matplotlib.colors matplotlib.container matplotlib.dates
    matplotlib.figure matplotlib.font_manager matplotlib.gridspec matplotlib.image matplotlib.legend
    matplotlib.legend_handler matplotlib.lines matplotlib.markers matplotlib.mlab matplotlib.offsetbox
    matplotlib.patches matplotlib.path matplotlib.patheffects matplotlib.projections matplotlib.pyplot matplotlib.scale
    matplotlib.spines matplotlib.style matplotlib.table matplotlib.text matplotlib.ticker matplotlib.transforms
    matplotlib.tri matplotlib.widgets mpl_toolkits mpl_toolkits.axes_grid1 mpl_toolkits.axes_grid1.inset_locator
    mpl_toolkits.mplot3d mpl_toolkits.mplot3d.art3d mpl_toolkits.mplot3d.axes3d
    dateutil dateutil.easter dateutil.parser dateutil.relativedelta dateutil.rrule dateutil.tz
    lxml lxml.etree lxml.html pytz tabulate
    """.split()
)
"""Modules of which code gets every public name."""

PACKAGES = frozenset(
    "PIL bs4 docx networkx openpyxl pptx pypdf scipy seaborn sklearn statsmodels sympy xlsxwriter".split()
)
"""Packages of which code gets every module whose name is public, where they are installed."""

_LEFT_OUT = frozenset(("PIL.ImageGrab", "PIL.ImageShow"))
"""Their modules that start programs."""

CHOSEN = {
    "__future__": "annotations division print_function absolute_import generator_stop unicode_literals",
    "abc": "ABC ABCMeta abstractmethod abstractproperty abstractclassmethod abstractstaticmethod",
    "ast": "literal_eval parse dump unparse",
    "codecs": "open encode decode lookup BOM_UTF8 BOM_UTF16",
    "dataclasses": "dataclass field fields asdict astuple replace is_dataclass KW_ONLY MISSING InitVar Field "
    "FrozenInstanceError",
    "functools": "cache cached_property cmp_to_key lru_cache partial partialmethod reduce total_ordering wraps",
    "inspect": "cleandoc getdoc isclass isfunction isgenerator ismethod signature",
    "io": "open StringIO BytesIO TextIOWrapper BufferedReader BufferedWriter TextIOBase IOBase UnsupportedOperation "
    "SEEK_SET SEEK_CUR SEEK_END DEFAULT_BUFFER_SIZE",
    "logging": "basicConfig getLogger debug info warning error critical exception log disable addLevelName "
    "getLevelName Logger Handler StreamHandler FileHandler NullHandler Filter Formatter LogRecord NOTSET DEBUG INFO "
    "WARNING WARN ERROR CRITICAL FATAL",
    "numpy.lib": "NumpyVersion stride_tricks",
    "numpy.lib.stride_tricks": "sliding_window_view broadcast_to",
    "numpy.testing": "assert_allclose assert_almost_equal assert_approx_equal assert_array_almost_equal "
    "assert_array_equal assert_array_less assert_equal",
    "operator": "abs add and_ attrgetter concat contains countOf delitem eq floordiv ge getitem gt iadd iand ifloordiv "
    "imul index indexOf inv invert ior ipow is_ is_not isub itemgetter itruediv ixor le lshift lt matmul methodcaller "
    "mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor",
    "os": "path sep linesep name curdir pardir extsep altsep pathsep devnull environ getenv getcwd chdir "
    "listdir scandir walk mkdir makedirs rmdir removedirs remove unlink rename replace stat access F_OK R_OK W_OK X_OK "
    "fspath fsdecode fsencode PathLike cpu_count getpid urandom strerror error",
    "platform": "python_version python_implementation system machine platform",
    "queue": "Queue LifoQueue PriorityQueue SimpleQueue Empty Full",
    "shutil": "copy copy2 copyfile copyfileobj move rmtree make_archive unpack_archive",
    "sqlite3": "connect Row Cursor Connection Error DatabaseError IntegrityError OperationalError ProgrammingError "
    "Binary PARSE_COLNAMES PARSE_DECLTYPES sqlite_version",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits printable punctuation "
    "whitespace capwords Template",
    "sys": "version version_info maxsize maxunicode platform byteorder float_info int_info hash_info argv path exit "
    "getsizeof getdefaultencoding getrecursionlimit setrecursionlimit exc_info",
    "tempfile": "NamedTemporaryFile TemporaryFile TemporaryDirectory SpooledTemporaryFile mkdtemp gettempdir",
    "timeit": "default_timer timeit repeat",
    "tqdm": "tqdm trange",
    "tqdm.auto": "tqdm trange",
    "traceback": "print_exc format_exc",
    "types": "SimpleNamespace MappingProxyType NoneType EllipsisType GenericAlias UnionType GeneratorType",
    "typing": "AbstractSet Annotated Any AnyStr AsyncIterator Awaitable BinaryIO ByteString Callable ChainMap ClassVar "
    "Collection Concatenate Container Coroutine Counter DefaultDict Deque Dict Final FrozenSet Generator Generic "
    "Hashable IO ItemsView Iterable Iterator KeysView List Literal LiteralString Mapping MappingView Match "
    "MutableMapping MutableSequence MutableSet NamedTuple Never NewType NoReturn NotRequired Optional OrderedDict "
    "ParamSpec Pattern Protocol Required Reversible Self Sequence Set Sized SupportsAbs SupportsFloat SupportsIndex "
    "SupportsInt SupportsRound Text TextIO Tuple Type TYPE_CHECKING TypeAlias TypedDict TypeGuard TypeVar TypeVarTuple "
    "Union Unpack ValuesView assert_never assert_type cast final get_args get_origin is_typeddict no_type_check "
    "overload reveal_type runtime_checkable",
    "warnings": "catch_warnings filterwarnings resetwarnings simplefilter warn",
    "weakref": "ref proxy WeakKeyDictionary WeakValueDictionary WeakSet",
    "yaml": "safe_load safe_load_all safe_dump safe_dump_all dump YAMLError",
}
"""Modules of which code gets these names; some of them are versions of our own."""

HINTS = {
    **dict.fromkeys(
        "aiohttp ftplib http httpx imaplib paramiko requests selenium smtplib socket ssl urllib.request urllib3 "
        "websockets yfinance".split(),
        "there is no network here; work with the files in the working folder",
    ),
    **dict.fromkeys(
        "asyncio concurrent concurrent.futures joblib multiprocessing threading _thread".split(),
        "there are no threads and no event loop here; write a plain loop",
    ),
    **dict.fromkeys(
        "dill cloudpickle joblib marshal pickle shelve".split(),
        "save data with json, csv, DataFrame.to_csv() or numpy.save()",
    ),
    **dict.fromkeys("pexpect pty sh subprocess".split(), "no programs can be started here; do it in Python"),
    **dict.fromkeys("builtins importlib pkgutil runpy".split(), "write an import statement"),
    **dict.fromkeys("polars dask pyspark modin duckdb".split(), "use pandas"),
    **dict.fromkeys("plotly bokeh altair".split(), "draw with matplotlib"),
    "xlrd": "read Excel files with pandas.read_excel() or openpyxl",
    "PyPDF2": "use pypdf",
    "fitz": "use pypdf",
    "pdfplumber": "use pypdf",
    "cv2": "use PIL",
}
"""What to do instead of importing what cannot be imported."""

_PUBLIC_NAMES = {"posix": "os", "nt": "os", "_io": "io", "_functools": "functools", "_operator": "operator"}
"""Modules in C, to those that show their functions."""

SHOWN = "numpy, pandas, matplotlib, openpyxl, pypdf, docx, pptx, PIL, lxml and the standard library's data modules"

OWN: dict[str, Any] = {}
"""Versions of our own, by module and name, such as `functools.wraps`."""


def stands_for(name: str) -> Callable[[Thing], Thing]:
    """Marks what code gets where it asks for `name` of a module in `CHOSEN`, such as `functools.wraps`."""

    def marked(thing: Thing) -> Thing:
        OWN[name] = thing
        return thing

    return marked


def stand_in(thing: Any) -> Any:
    """What code gets for a function or class, wherever it has found it: the version of our own, if there is one.

    Raises:
        AttributeError: it is one that the facade of its module leaves out.
    """
    module = str(thing.__module__)
    module = _PUBLIC_NAMES.get(module, module)
    if module not in CHOSEN or getattr(sys.modules.get(module), thing.__name__, None) is not thing:
        return thing
    return _stand_in(module, thing)


@lru_cache(maxsize=1024)
def _stand_in(module: str, thing: Any) -> Any:
    real = sys.modules[module]
    for name, given in vars(_facade(module, real)).items():
        if getattr(real, name, None) is thing:
            return given
    raise AttributeError(f"{module}.{thing.__name__} is not available here{_hint(module)}")


class Facade(ModuleType):
    """A module that shows a choice of another one's names."""

    settable: ClassVar[frozenset[str]] = frozenset()
    """Those that code may set."""

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(sorted(key for key in vars(self) if not key.startswith("__")))
        raise AttributeError(f"{self.__name__}.{name} is not available here. {self.__name__} has: {names}")


_facades: dict[str, Facade] = {}


def admit(module: ModuleType) -> ModuleType:
    """The module as code may have it.

    Raises:
        AttributeError: it may not.
    """
    name = module.__name__
    if isinstance(module, Facade) or name in WHOLE or _in_package(name):
        return module
    if name in CHOSEN:
        return _facade(name, module)
    raise AttributeError(f"the module {name} is not available here" + _hint(name))


def imported(name: str, fromlist: Sequence[str] | None, get: Callable[[Any, str], Any]) -> Any:
    """What an import statement gives: the first package of `name`, or an object that has the names of `fromlist`.

    Args:
        name: the module, with dots.
        fromlist: what stands behind `import` in `from … import …`; None or empty without it.
        get: reads an attribute as code may.

    Raises:
        ImportError: the module cannot be imported here, or has no such name.
    """
    module = _load(name)
    if not fromlist:
        return admit(importlib.import_module(name.partition(".")[0]))
    return SimpleNamespace(**{each: _member(module, name, each, get) for each in fromlist})


def load_for_library(name: str) -> None:
    """Imports what C code of a library asks for in the name of the code that called it: private parts of what may be
    imported. Its caller takes it from sys.modules, so that no code sees it.

    Raises:
        ImportError: it is another module.
    """
    top = name.partition(".")[0]
    if not (top.startswith("_") or top in WHOLE or top in PACKAGES or top in CHOSEN or name in sys.modules):
        raise _refusal(name)
    importlib.import_module(name)


def _load(name: str) -> ModuleType:
    if name not in WHOLE and name not in CHOSEN and not _in_package(name):
        raise _refusal(name)
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ModuleNotFoundError(f"{name} is not installed, and cannot be: use {SHOWN}", name=name)
    return admit(importlib.import_module(name))


def _member(module: ModuleType, name: str, member: str, get: Callable[[Any, str], Any]) -> Any:
    """A name of a module, or a module of a package that nobody has imported yet."""
    inner = f"{name}.{member}"
    if inner in WHOLE or inner in CHOSEN or (_in_package(inner) and not hasattr(module, member)):
        try:
            return _load(inner)
        except ModuleNotFoundError:
            pass  # a name that is also that of no module
    try:
        return get(module, member)
    except AttributeError as error:
        raise ImportError(f"cannot import {member!r} from {name!r}: {error}", name=name) from None


def _in_package(name: str) -> bool:
    top, *inner = name.split(".")
    return top in PACKAGES and name not in _LEFT_OUT and not any(part.startswith("_") for part in inner)


def _facade(name: str, module: ModuleType) -> Facade:
    if name not in _facades:
        facade: Facade = OWN.get(name, Facade)(name, module.__doc__)
        for each in CHOSEN[name].split():
            key = f"{name}.{each}"
            if key in OWN or hasattr(module, each):
                setattr(facade, each, OWN.get(key, getattr(module, each, None)))
        _facades[name] = facade
    return _facades[name]


def _refusal(name: str) -> ImportError:
    return ModuleNotFoundError(f"the module {name} cannot be imported here{_hint(name)}. There are: {SHOWN}", name=name)


def _hint(name: str) -> str:
    hint = HINTS.get(name) or HINTS.get(name.partition(".")[0])
    return f": {hint}" if hint else ""
