import { describe, expect, test } from 'vitest'
import { AppError } from '../../src/core/errors.ts'
import { PickleEnds, readPickle, type PicklePolicy } from '../../src/engines/containers/pickle.ts'
import { readTorchFile, torchPolicy, torchRecipe, type TorchFile } from '../../src/engines/containers/torch.ts'
import { readZip, storedEntry } from '../../src/engines/containers/zip.ts'
import { memoryFolder } from '../contracts/memory.ts'
import {
  ascii,
  BUILD,
  call,
  EMPTY_DICT,
  EMPTY_LIST,
  EMPTY_TUPLE,
  global,
  int,
  MARK,
  NONE,
  pickle,
  REDUCE,
  SETITEM,
  stackGlobal,
  stateDict,
  text,
  torchZip,
  tuple,
  u16,
  u32,
  u64,
  zip,
  type Bytes,
  type TensorLies,
  type ZipItem,
  type ZipLies,
} from './pickle-bytes.ts'

async function readTorch(bytes: Uint8Array): Promise<TorchFile> {
  return readTorchFile(await memoryFolder({ 'm.bin': bytes }).open('m.bin'))
}

async function failureOf(bytes: Uint8Array): Promise<AppError> {
  const outcome: unknown = await readTorch(bytes).catch((error: unknown) => error)
  if (outcome instanceof AppError) return outcome
  throw new Error(`no AppError, but ${String(outcome)}`)
}

/** Arguments stand for a payload; none is one. */
const HARMLESS = tuple(text('x'))
const wants = (what: string): string => `The pickle in m.bin wants to use ${what}, which no checkpoint needs`

describe('pickles that import', () => {
  const direct = (callee: Bytes): Uint8Array => pickle(callee, HARMLESS, REDUCE)
  const cases: readonly (readonly [string, Uint8Array, string])[] = [
    ['os.system by REDUCE', direct(global('os', 'system')), 'os.system'],
    ['posix.system by REDUCE', direct(global('posix', 'system')), 'posix.system'],
    ['nt.system by REDUCE', direct(global('nt', 'system')), 'nt.system'],
    ['builtins.eval', direct(global('builtins', 'eval')), 'builtins.eval'],
    ['builtins.exec', direct(global('builtins', 'exec')), 'builtins.exec'],
    ['__builtin__.eval of Python 2', direct(global('__builtin__', 'eval')), '__builtin__.eval'],
    ['builtins.getattr', direct(global('builtins', 'getattr')), 'builtins.getattr'],
    ['builtins.__import__', direct(global('builtins', '__import__')), 'builtins.__import__'],
    ['subprocess.Popen', direct(global('subprocess', 'Popen')), 'subprocess.Popen'],
    ['runpy._run_code', direct(global('runpy', '_run_code')), 'runpy._run_code'],
    ['operator.attrgetter', direct(global('operator', 'attrgetter')), 'operator.attrgetter'],
    ['pickle.loads within', direct(global('pickle', 'loads')), 'pickle.loads'],
    ['torch.load within', direct(global('torch', 'load')), 'torch.load'],
    ['storages as pickles', direct(global('torch.storage', '_load_from_bytes')), 'torch.storage._load_from_bytes'],
    ['torch.hub.load', direct(global('torch.hub', 'load')), 'torch.hub.load'],
    ['numpy.load', direct(global('numpy', 'load')), 'numpy.load'],
    ['STACK_GLOBAL', direct(stackGlobal('os', 'system')), 'os.system'],
    ['STACK_GLOBAL with a dotted name', direct(stackGlobal('torch', 'os.system')), 'torch.os.system'],
    ['STACK_GLOBAL of a submodule', direct(stackGlobal('os.path', 'join')), 'os.path.join'],
    ['STACK_GLOBAL of dunder attributes', direct(stackGlobal('torch', 'nn.__class__')), 'torch.nn.__class__'],
    [
      'STACK_GLOBAL of names from the memo',
      pickle(
        text('os'),
        [0x94],
        [0x30],
        text('system'),
        [0x94],
        [0x30],
        [0x68, 0],
        [0x68, 1],
        [0x93],
        HARMLESS,
        REDUCE,
      ),
      'os.system',
    ],
    ['INST', pickle(MARK, text('x'), [0x69], ascii('os\nsystem\n')), 'os.system'],
    ['OBJ', pickle(MARK, global('os', 'system'), text('x'), [0x6f]), 'os.system'],
    ['NEWOBJ', pickle(global('subprocess', 'Popen'), EMPTY_TUPLE, [0x81]), 'subprocess.Popen'],
    ['never called', pickle(global('os', 'system')), 'os.system'],
    ['called and dropped', pickle(global('os', 'system'), HARMLESS, REDUCE, [0x30], EMPTY_DICT), 'os.system'],
    [
      'as the argument of a known call',
      pickle(call(global('functools', 'partial'), global('os', 'system'))),
      'os.system',
    ],
    ['within the state of a module', pickle(nnModule(global('os', 'system'))), 'os.system'],
    ['a function nobody knows', direct(global('somewhere.else', 'run')), 'somewhere.else.run'],
    ['a function of torch that is no data', direct(global('torch.utils.data', 'fetch')), 'torch.utils.data.fetch'],
  ]

  function nnModule(value: Bytes): Bytes {
    return [
      ...global('__main__', 'Net'),
      ...EMPTY_TUPLE,
      0x81,
      ...EMPTY_DICT,
      ...text('a'),
      ...value,
      ...SETITEM,
      ...BUILD,
    ]
  }

  test.each(cases)('%s', async (_, bytes, name) => {
    for (const file of [torchZip(bytes), legacy(bytes)]) {
      const error = await failureOf(file)
      expect(error.code).toBe('unsupported')
      expect(error.message).toBe(wants(name))
      expect(error.hint).toContain('Nothing of it was run')
      expect(error.where.offset).toBeGreaterThan(0)
    }
  })

  test('classes that nobody knows are records, and only that', async () => {
    const { root } = await readTorch(
      torchZip(pickle(EMPTY_DICT, text('args'), nnModule(int(3)), SETITEM, text('w'), tensorPart(), SETITEM)),
    )
    expect(root).toMatchObject({
      kind: 'dict',
      entries: [
        ['args', { kind: 'call', how: 'new' }],
        ['w', {}],
      ],
    })
  })
})

function tensorPart(): Bytes {
  const whole = [...stateDict()]
  // without PROTO, EMPTY_DICT, the key, SETITEM and STOP
  return whole.slice(2 + 1 + text('w').length, -2)
}

/** The format before zip: magic number, protocol, system, this pickle, storages. */
function legacy(data: Uint8Array): Uint8Array {
  const magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e]
  const system = pickle(EMPTY_DICT, text('little_endian'), [0x88], SETITEM)
  const keys = pickle(EMPTY_LIST, text('0'), [0x61])
  return Uint8Array.from([
    ...magic,
    ...pickle(int(1001)),
    ...system,
    ...data,
    ...keys,
    ...u64(6),
    ...new Uint8Array(24),
  ])
}

describe('pickles that are broken or exhaust', () => {
  const never: PicklePolicy = { calls: () => false }
  const broken = (...parts: Bytes[]): string => {
    try {
      readPickle(pickle(...parts), never, 'x')
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
    return 'nothing'
  }
  const says = (why: string): string => `The pickle in x is broken: ${why}`

  test.each<[string, Bytes[], string]>([
    ['an unknown opcode', [[0xff]], says('0xff is no opcode that a checkpoint uses')],
    ['EXT1, the registry', [[0x82, 1]], says('0x82 is no opcode that a checkpoint uses')],
    ['out-of-band buffers', [[0x97]], says('0x97 is no opcode that a checkpoint uses')],
    ['protocol 6', [[0x80, 6]], says('it is of protocol 6')],
    ['an empty stack', [], says('it takes from an empty stack')],
    ['a pop below the mark', [NONE, MARK, [0x85]], says('it takes from an empty stack')],
    ['a missing mark', [[0x74]], says('it looks for a mark that is not there')],
    ['a memo that was never set', [[0x68, 7]], says('it recalls memo 7, which was never set')],
    ['values left over', [NONE, NONE], says('values are left over at its end')],
    ['an odd dict', [EMPTY_DICT, MARK, NONE, [0x75]], says('a dict has a key without a value')],
    ['appending to a tuple', [EMPTY_TUPLE, NONE, [0x61]], says('it appends to what is no list')],
    ['items of a number', [int(1), NONE, NONE, SETITEM], says('it sets items of what is no dict')],
    ['a state for a list', [EMPTY_LIST, NONE, BUILD], says('it gives a state to what is no object')],
    ['calling a string', [text('os.system'), EMPTY_TUPLE, REDUCE], says('it calls what is no function')],
    [
      'calling with a list',
      [global('a', 'b'), EMPTY_LIST, REDUCE],
      says('it calls with what is no tuple of arguments'),
    ],
    ['an instance of a string', [text('x'), EMPTY_TUPLE, [0x81]], says('it makes an instance of what is no class')],
    ['importing a number', [text('a'), int(1), [0x93]], says('it imports by what is not a name')],
    ['a huge integer', [[0x8b, ...u32(1 << 30)]], says('an integer has 1073741824 bytes')],
    ['a negative length', [[0x8b, ...u32(2 ** 32 - 1)]], says('an integer has -1 bytes')],
    ['long digits', [[0x4c, ...ascii(`${'9'.repeat(1000)}L\n`)]], says('a number is not one')],
    [
      'a string beyond 2^53',
      [[0x8d, ...u64(0), 0, 0].slice(0, 1).concat([0, 0, 0, 0, 0, 0, 0, 0xff])],
      says('a value is longer than any file'),
    ],
    ['bad UTF-8', [[0x8c, 1, 0xff]], says('a string is not UTF-8')],
    ['marks without end', [Array.from({ length: 1001 }, () => 0x28)], says('more than 1000 marks are open')],
  ])('%s', (_, parts, message) => {
    expect(broken(...parts)).toBe(message)
  })

  test('a pickle without STOP ends, and asks for more only as far as there is some', async () => {
    expect(() => readPickle(Uint8Array.from([0x80, 2, 0x4e]), never, 'x')).toThrow(PickleEnds)
    expect(() => readPickle(Uint8Array.from([0x58, ...u32(2 ** 32 - 1)]), never, 'x')).toThrow(PickleEnds)
    const endless = new Uint8Array(1 << 16).fill(0x4e)
    endless.set([0x80, 2])
    const error = await failureOf(torchZip(endless))
    expect([error.code, error.message]).toEqual(['truncated', 'The pickle in m.bin has no end'])
  })

  test('opcodes without end, and objects without end, stop at a limit', () => {
    const pops = new Uint8Array((1 << 24) + 4).fill(0x30)
    for (let i = 0; i < pops.length; i += 2) pops[i] = 0x4e
    expect(() => readPickle(pops, never, 'x')).toThrow(says(`it has more than ${1 << 24} opcodes`))
    const lists = new Uint8Array((1 << 21) + 2).fill(0x5d)
    expect(() => readPickle(lists, never, 'x')).toThrow(says(`it has more than ${1 << 21} objects`))
  })

  test('a memo bomb stays as small as it is', () => {
    // each list holds the one before ten times: 10^60 items, if anyone were to count them
    const levels = Array.from({ length: 60 }, (_, level): Bytes => {
      const before = level === 0 ? NONE : [0x68, level - 1]
      return [...EMPTY_LIST, ...MARK, ...Array.from({ length: 10 }, () => before).flat(), 0x65, 0x71, level, 0x30]
    })
    const started = performance.now()
    const { value } = readPickle(pickle(...levels, [0x68, 59]), never, 'x')
    expect(value).toMatchObject({ kind: 'list' })
    expect(performance.now() - started).toBeLessThan(1000)
  })

  test('modules that hold one another are given up, not followed', async () => {
    // a module whose only child is itself
    const self = [
      ...global('__main__', 'Net'),
      ...EMPTY_TUPLE,
      0x81,
      0x71,
      0,
      ...EMPTY_DICT,
      ...text('_modules'),
      ...EMPTY_DICT,
      ...text('a'),
      0x68,
      0,
      ...SETITEM,
      ...SETITEM,
      ...BUILD,
    ]
    const error = await failureOf(torchZip(pickle(self)))
    expect(error.message).toContain('its modules hold one another without end')
    // sixty modules that each hold the next twice: 2^60 names
    const leaf = [...global('__main__', 'Net'), ...EMPTY_TUPLE, 0x81, 0x71, 0]
    const levels = Array.from({ length: 60 }, (_, level): Bytes => [
      0x30,
      ...global('__main__', 'Net'),
      ...EMPTY_TUPLE,
      0x81,
      0x71,
      level + 1,
      ...EMPTY_DICT,
      ...text('_modules'),
      ...EMPTY_DICT,
      ...text('a'),
      0x68,
      level,
      ...SETITEM,
      ...text('b'),
      0x68,
      level,
      ...SETITEM,
      ...SETITEM,
      ...BUILD,
    ])
    const doubled = await failureOf(torchZip(pickle(leaf, ...levels)))
    expect(doubled.message).toContain('its modules hold one another without end')
  })
})

describe('persistent ids that lie', () => {
  const names = (why: string): string => `m.bin is not a proper file of torch.save: ${why}`

  test('the truth is read', async () => {
    const { tensors } = await readTorch(torchZip(stateDict()))
    expect(tensors.map(({ name, shape, contiguous }) => [name, shape, contiguous])).toEqual([['w', [2, 3], true]])
    expect((await readTorch(legacy(stateDict()))).tensors[0]?.shape).toEqual([2, 3])
  })

  test.each<[string, TensorLies, string]>([
    ['numel beyond the record', { numel: int(7) }, names('m/data/0 has 24 bytes, but w says 7 elements of f32')],
    ['numel below it', { numel: int(5) }, names('m/data/0 has 24 bytes, but w says 5 elements of f32')],
    ['another type', { storage: 'DoubleStorage' }, names('m/data/0 has 24 bytes, but w says 6 elements of f64')],
    ['a huge numel', { numel: int(2 ** 52) }, names('the storage of w has 4503599627370496 bytes')],
    ['a negative numel', { numel: int(-6) }, names('the storage of w has no key or size')],
    ['an offset beyond the end', { offset: int(1) }, names('w reaches to element 7 of a storage of 6')],
    ['a negative offset', { offset: int(-1) }, names('w starts at element -1 of its storage')],
    ['a shape beyond the end', { shape: tuple(int(3), int(3)) }, names('w reaches to element 9 of a storage of 6')],
    ['a negative shape', { shape: tuple(int(-2), int(3)) }, names('w has the shape (-2, 3) and the strides (3, 1)')],
    ['a negative stride', { strides: tuple(int(-3), int(1)) }, names('w has the shape (2, 3) and the strides (-3, 1)')],
    [
      'a huge stride',
      { strides: tuple(int(2 ** 52), int(1)) },
      names('w reaches to element 4503599627370499 of a storage of 6'),
    ],
    ['fewer strides than axes', { strides: tuple(int(1)) }, names('w has the shape (2, 3) and the strides (1)')],
    ['a shape that is a list', { shape: EMPTY_LIST }, names('w has the shape () and the strides (3, 1)')],
    [
      'sizes of 2^60 by strides of 0',
      { shape: tuple(int(2 ** 31 - 1), int(2 ** 29)), strides: tuple(int(0), int(0)) },
      names('w reaches to element 1 of a storage of 6'),
    ],
    ['a key that is not there', { key: '1' }, 'm.bin has no m/data/1 in it'],
    ['a key that leads out', { key: '../../etc/x' }, 'm.bin has no m/data/../../etc/x in it'],
  ])('%s', async (_, lies, message) => {
    expect((await failureOf(torchZip(stateDict(lies)))).message).toBe(message)
  })

  test('a type that is no storage', async () => {
    expect((await failureOf(torchZip(stateDict({ storage: 'QInt8Storage' })))).message).toBe(
      'w in m.bin is a torch.QInt8Storage',
    )
  })

  test('the old format says sizes of its own, which must agree', async () => {
    expect((await failureOf(legacy(stateDict({ numel: int(7) })))).message).toBe(
      names('the storage 0 has 6 elements, but w says 7'),
    )
    const long = legacy(stateDict())
    long.set(u64(2 ** 40), long.length - 32)
    expect((await failureOf(long)).code).toBe('truncated')
    expect((await failureOf(Uint8Array.from([...legacy(stateDict()), 0]))).message).toBe(
      names('1 bytes follow its last storage'),
    )
  })

  test('big-endian files are refused', async () => {
    const order: ZipItem = { name: 'm/byteorder', data: Uint8Array.from(ascii('big')) }
    expect((await failureOf(torchZip(stateDict(), new Uint8Array(24), [order]))).message).toBe(
      'm.bin was written on a big-endian machine',
    )
  })

  test('a pickle of other origin, a pointer and a text are told apart', async () => {
    expect((await failureOf(pickle(EMPTY_DICT))).message).toBe('m.bin is a pickle, but not one of torch.save')
    const pointer = Uint8Array.from(ascii('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'))
    expect((await failureOf(pointer)).message).toBe('m.bin is a Git LFS pointer, not the weights')
    expect((await failureOf(Uint8Array.from(ascii('<html>')))).message).toBe('m.bin is no file of torch.save')
    expect((await failureOf(new Uint8Array(0))).message).toBe('m.bin is no file of torch.save')
  })

  test('overlapping views and wide expansions are refused by name, not planned', async () => {
    const overlap = await readTorch(torchZip(stateDict({ strides: tuple(int(1), int(1)) })))
    expect(() => torchRecipe(overlap.tensors[0]!)).toThrow('w in m.bin is a view with the shape [2, 3]')
    const wide = await readTorch(
      torchZip(stateDict({ shape: tuple(int(2 ** 20), int(3)), strides: tuple(int(0), int(1)) })),
    )
    expect(() => torchRecipe(wide.tensors[0]!)).toThrow('w in m.bin is a view with the shape [1048576, 3]')
  })

  test('the policy calls nothing that is not data', () => {
    for (const [module, name] of [
      ['os', 'system'],
      ['builtins', 'eval'],
      ['megatron.core', 'run'],
      ['torch', 'load'],
      ['', ''],
    ] as const) {
      expect(torchPolicy.calls(module, name) && module !== 'builtins', `${module}.${name}`).toBe(false)
    }
  })
})

describe('zip archives that lie', () => {
  const one = (lies: Omit<ZipItem, 'name' | 'data'>, archive: ZipLies = {}): Uint8Array =>
    zip([{ name: 'm/a', data: Uint8Array.from([1, 2, 3, 4]), ...lies }], archive)
  const two = (second: Omit<ZipItem, 'data'>): Uint8Array =>
    zip([
      { name: 'm/a', data: new Uint8Array(4) },
      { data: new Uint8Array(4), ...second },
    ])
  const says = (why: string): string => `z is not a proper zip archive: ${why}`

  async function failure(bytes: Uint8Array): Promise<AppError> {
    const source = await memoryFolder({ z: bytes }).open('z')
    const outcome: unknown = await readZip(source).catch((error: unknown) => error)
    if (outcome instanceof AppError) return outcome
    throw new Error(`no AppError, but ${String(outcome)}`)
  }

  test('the truth is read, with a comment too', async () => {
    for (const bytes of [one({}), one({}, { comment: ascii('hello') })]) {
      const archive = await readZip(await memoryFolder({ z: bytes }).open('z'))
      expect(storedEntry(archive, 'm/a')).toMatchObject({ method: 'store', size: 4, packed: 4, offset: 33 })
    }
  })

  test.each<[string, Uint8Array, string]>([
    [
      'another method in the header',
      one({ local: { method: 8 } }),
      says('its directory and the header of m/a disagree on the method'),
    ],
    [
      'another name in the header',
      one({ local: { name: 'm/b' } }),
      says('its directory and the header of m/a disagree on the name'),
    ],
    [
      'another length of the name',
      one({ local: { name: 'm/ab' } }),
      says('its directory and the header of m/a disagree on the name'),
    ],
    [
      'another size in the header',
      one({ local: { size: 5 } }),
      says('its directory and the header of m/a disagree on the size'),
    ],
    [
      'other flags in the header',
      one({ local: { flags: 1 } }),
      says('its directory and the header of m/a disagree on the flags'),
    ],
    ['an encrypted entry', one({ central: { flags: 1 } }), 'm/a in z is encrypted'],
    ['patched data', one({ central: { flags: 32 } }), 'm/a in z has the zip flags 0x20'],
    ['bzip2', one({ central: { method: 12 } }), 'm/a in z is compressed by method 12'],
    ['stored in fewer bytes than it has', one({ central: { packed: 3 } }), says('m/a is stored, but of 4 bytes in 3')],
    [
      'a deflate bomb',
      one({ central: { method: 8, size: 2 ** 31 }, local: { method: 8 } }),
      says('m/a claims 2147483648 bytes in 4, more than deflate can'),
    ],
    [
      'a payload that runs into the directory',
      one({ central: { packed: 400, size: 400 }, local: { packed: 400, size: 400 } }),
      says('m/a runs into the directory'),
    ],
    [
      'a header beyond the directory',
      one({ central: { offset: 2000 } }),
      says('m/a does not lie before the directory'),
    ],
    ['a header that is none', one({ central: { offset: 1 } }), says('m/a has no header')],
    ['a name twice', two({ name: 'm/a' }), says('m/a occurs twice')],
    [
      'two entries of one payload',
      two({ name: 'm/b', central: { offset: 0 }, local: {} }),
      says('its directory and the header of m/b disagree on the name'),
    ],
    ['an empty name', zip([{ name: '', data: new Uint8Array(1) }]), says('a name in its directory is not text')],
    [
      'a name with a zero',
      zip([{ name: 'a\0b', data: new Uint8Array(1) }]),
      says('a name in its directory is not text'),
    ],
    ['more entries than fit', one({}, { entries: 60000 }), says('60000 entries do not fit in its directory')],
    [
      'fewer entries than there are',
      zip(
        [
          { name: 'a', data: new Uint8Array(1) },
          { name: 'b', data: new Uint8Array(1) },
        ],
        { entries: 1 },
      ),
      says('its directory goes on after its 1 entries'),
    ],
    [
      'a directory elsewhere',
      one({}, { directoryOffset: 3 }),
      says('its directory does not end where the end record starts'),
    ],
    [
      'bytes between directory and end',
      one({}, { behind: [0, 0] }),
      says('its directory does not end where the end record starts'),
    ],
    ['several disks', one({}, { disk: 1 }), 'z is one part of a zip archive in several'],
    [
      'zip64 without its record',
      one({}, { directoryOffset: 0xffffffff }),
      says('its directory is said to be zip64, but there is no zip64 record'),
    ],
    [
      'a zip64 size without its field',
      one({ central: { size: 0xffffffff, packed: 0xffffffff } }),
      says('m/a needs a zip64 field and has none'),
    ],
    [
      'a zip64 field too short',
      one({ central: { size: 0xffffffff, packed: 0xffffffff }, extra: [...u16(1), ...u16(8), ...u64(4)] }),
      says('the zip64 field of m/a is too short'),
    ],
    [
      'a zip64 size beyond 2^53',
      one({ central: { size: 0xffffffff }, extra: [...u16(1), ...u16(8), 0, 0, 0, 0, 0, 0, 0, 0xff] }),
      says('it names the offset or size 18374686479671623680'),
    ],
  ])('%s', async (_, bytes, message) => {
    expect((await failure(bytes)).message).toBe(message)
  })

  test('entries that share bytes', async () => {
    // the second header lies within the first payload, as in the bombs whose entries all quote one kernel
    const inner = zip([{ name: 'm/b', data: new Uint8Array(4) }]).slice(0, 37)
    const bytes = zip([
      { name: 'm/a', data: inner },
      { name: 'm/b', data: new Uint8Array(4), central: { offset: 33 } },
    ])
    expect((await failure(bytes)).message).toBe(says('m/b overlaps m/a'))
  })

  test('a file without a directory, and one that ends before it', async () => {
    const whole = one({})
    expect((await failure(whole.slice(0, -1))).code).toBe('truncated')
    expect((await failure(new Uint8Array(3))).code).toBe('truncated')
  })

  test('compressed entries are named when they are wanted', async () => {
    const archive = await readZip(
      await memoryFolder({ z: one({ central: { method: 8 }, local: { method: 8 } }) }).open('z'),
    )
    expect(() => storedEntry(archive, 'm/a')).toThrow('m/a in z is compressed')
  })

  test('no byte of a small archive can be changed into a crash', async () => {
    const good = torchZip(stateDict())
    for (let at = 0; at < good.length; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const bytes = good.slice()
        bytes[at] = bytes[at]! ^ flip
        const outcome: unknown = await readTorch(bytes).catch((error: unknown) => error)
        if (outcome instanceof Error) expect(outcome, `byte ${at}`).toBeInstanceOf(AppError)
      }
    }
  })
})
