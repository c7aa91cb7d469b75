/**
 * Modules whose contents run code, open files or sockets, or fetch attributes: a pickle that only names one of them was
 * made to attack. The allow-list would stop its call; this tells sooner, and calls it by its name.
 */
const HOSTILE_MODULES: ReadonlySet<string> = new Set(
  (
    'os posix nt sys subprocess pty runpy importlib imp pkgutil zipimport code codeop commands popen2 platform signal ' +
    'socket ssl asyncio multiprocessing threading concurrent ctypes cffi shutil tempfile pathlib io fileinput glob ' +
    'webbrowser urllib urllib2 urllib3 requests http httplib ftplib smtplib telnetlib xmlrpc socketserver ' +
    'pickle _pickle cPickle dill cloudpickle joblib marshal shelve operator _operator types inspect ast bdb pdb ' +
    'timeit cProfile profile trace doctest unittest distutils setuptools pip venv ensurepip gc atexit sysconfig site'
  ).split(' '),
)

/** The harmless part of builtins. */
const BUILTINS: ReadonlySet<string> = new Set(
  'set frozenset list dict tuple int float bool str bytes bytearray complex slice range object'.split(' '),
)

/** Names within packages that are otherwise good, which run or load something. */
const HOSTILE_NAMES: ReadonlySet<string> = new Set([
  'torch.hub.load',
  'torch.load',
  'torch.serialization.load',
  'torch.storage._load_from_bytes',
  'torch.jit.load',
  'torch.utils.cpp_extension.load',
  'torch.utils.cpp_extension.load_inline',
  'numpy.load',
  'numpy.f2py.compile',
  'numpy.testing._private.utils.runstring',
  'numpy.distutils.exec_command.exec_command',
])

/**
 * Names within hostile modules that are no more than data: a buffer in memory, which Megatron keeps Transformer Engine's
 * state in, and paths, which distributed checkpoints have of where they were saved.
 */
const HARMLESS_NAMES: ReadonlySet<string> = new Set([
  'io.BytesIO',
  '_io.BytesIO',
  'pathlib.PosixPath',
  'pathlib.WindowsPath',
  'pathlib._local.PosixPath',
  'pathlib._local.WindowsPath',
])

/** Whether a global is one that only an attack needs: it runs code, or is another one in disguise. */
export function isHostile(module: string, name: string): boolean {
  const root = module.split('.')[0] ?? ''
  const builtin = root === 'builtins' || root === '__builtin__' || root === '__builtins__'
  // a dotted name is an attribute of the import: `torch`, `os.system` is posix.system in disguise
  if (name.split('.').some((part) => HOSTILE_MODULES.has(part) || part.startsWith('__'))) return true
  if (HARMLESS_NAMES.has(`${module}.${name}`)) return false
  return builtin ? !BUILTINS.has(name) : HOSTILE_MODULES.has(root) || HOSTILE_NAMES.has(`${module}.${name}`)
}
