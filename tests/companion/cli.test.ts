import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { FormatInfo, Inspection, Matrix, PlanSummary, Target } from '../../src/api/wire.ts'
import type { ErrorData } from '../../src/core/errors.ts'
import type { Report } from '../../src/core/job.ts'
import { safetensors } from '../engines/hf/folder.ts'
import { command, temporary, TINY, tinyModel, type Ran } from './command.ts'

let space: ReturnType<typeof temporary>
let folder: string
const run = (...args: readonly string[]): Promise<Ran> => command(folder, ...args)
/** What is in the folder but the command's own state. */
const listed = (at = folder): string[] => readdirSync(at).filter((name) => name !== '.state')
const sha256 = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex')

beforeEach(() => {
  space = temporary()
  folder = space.path
})
afterEach(() => space.remove())

const STACK = /\n\s+at .*:\d+/

/** An error as people see it: exit status, code, hint, and no stack. */
function expectError(ran: Ran, status: number, code: string, ...words: readonly string[]): void {
  expect(ran).toMatchObject({ code: status, stdout: '' })
  expect(ran.stderr).toMatch(new RegExp(`^error\\[${code}\\]: `))
  expect(ran.stderr).toMatch(/\n {2}hint: \S.*\n$/)
  expect(ran.stderr).not.toMatch(STACK)
  for (const word of words) expect(ran.stderr).toContain(word)
}

describe('help', () => {
  test('--help, -h and help say the same', async () => {
    const said = await Promise.all([run('--help'), run('-h'), run('help')])
    expect(said[0]).toMatchObject({ code: 0, stderr: '' })
    for (const word of ['convert', 'inspect', 'formats', 'sample', 'Exit status'])
      expect(said[0].stdout).toContain(word)
    expect(new Set(said.map(({ stdout }) => stdout)).size).toBe(1)
  })

  test('no command is wrong usage', async () => {
    const { code, stdout, stderr } = await run()
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('convert INPUT FORMAT')
  })

  test('each command has its own, at most 100 columns wide', async () => {
    for (const name of ['convert', 'inspect', 'check', 'compare', 'formats']) {
      const [own, asked] = await Promise.all([run(name, '--help'), run('help', name)])
      expect(own).toEqual(asked)
      expect(own).toMatchObject({ code: 0, stderr: '' })
      expect(own.stdout).toMatch(new RegExp(`^usage: modelconvert ${name}`))
      expect(own.stdout).toContain('--json')
      for (const line of own.stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(100)
    }
    const { stdout } = await run('convert', '--help')
    for (const word of ['--quant', '-o, --output', '--dry-run']) expect(stdout).toContain(word)
  })

  test('a format has its own help, with its own choices', async () => {
    const [gguf, hf] = await Promise.all([run('convert', 'gguf', '--help'), run('convert', 'x', 'hf', '--help')])
    for (const word of ['--quant TYPE', 'q4_k_m', '--dry-run']) expect(gguf.stdout).toContain(word)
    expect(hf.stdout).not.toContain('q4_k_m')
    for (const line of gguf.stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(100)
  })

  test('--version', async () => {
    const manifest = JSON.parse(readFileSync(path.resolve(TINY, '../../../package.json'), 'utf8')) as {
      version: string
    }
    expect(await run('--version')).toEqual({ code: 0, stdout: `${manifest.version}\n`, stderr: '' })
  })
})

describe('wrong usage', () => {
  const cases: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['an unknown command', ['transmogrify'], ['"transmogrify"', 'convert, inspect, check, compare, formats']],
    ['too few words', ['convert', 'sample'], ['INPUT and FORMAT']],
    ['too many words', ['convert', 'sample', 'gguf', 'more'], ['INPUT and FORMAT']],
    ['an unknown flag', ['convert', 'sample', 'gguf', '--bogus'], ['--bogus', 'modelconvert convert --help']],
    ['a flag without its value', ['convert', 'sample', 'gguf', '--quant'], ['--quant']],
    ['an unknown format', ['convert', 'sample', 'gogo'], ['"gogo"', 'gguf']],
    ['an unknown type', ['convert', 'sample', 'gguf', '--quant', 'q9'], ['--quant', '"q9"', 'q4_k_m']],
    ['a bad count', ['convert', 'sample', 'gguf', '--threads', 'many'], ['--threads', '"many"']],
    ['a bad size', ['convert', 'sample', 'gguf', '--memory', 'lots'], ['--memory', '"lots"']],
    ['a bad device', ['convert', 'sample', 'gguf', '--device', 'abacus'], ['--device', 'auto or cpu']],
    ['an empty output', ['convert', 'sample', 'gguf', '-o', ''], ['--output']],
    ['no model', ['inspect'], ['MODEL']],
  ]
  test.each(cases)('%s', async (_, args, words) => {
    expectError(await run(...args), 2, 'bad-option', ...words)
    expect(listed()).toEqual([])
  })

  test('a device of a later version is not wrong usage', async () => {
    expectError(await run('convert', 'sample', 'gguf', '--device', 'cuda'), 1, 'unsupported', 'cuda')
  })
})

describe('errors', () => {
  test('what is not there', async () => {
    expectError(await run('inspect', 'nowhere'), 1, 'missing-file', 'nowhere')
  })

  test('what is no model', async () => {
    mkdirSync(path.join(folder, 'photos'))
    writeFileSync(path.join(folder, 'photos', 'beach.jpg'), 'not really')
    expectError(await run('convert', 'photos', 'gguf'), 1, 'not-a-model', 'photos', 'nothing but beach.jpg', 'GGUF')
    writeFileSync(path.join(folder, 'photos', 'hills.jpg'), 'not really')
    expectError(await run('inspect', 'photos'), 1, 'not-a-model', '2 files, such as beach.jpg, hills.jpg')
  })

  test('an adapter without its base, with its base, and as what it is not', async () => {
    const adapter = path.join(folder, 'mine')
    mkdirSync(adapter)
    const config = { peft_type: 'LORA', r: 4, lora_alpha: 8, base_model_name_or_path: 'somebody/tiny' }
    writeFileSync(path.join(adapter, 'adapter_config.json'), JSON.stringify(config))
    const name = 'base_model.model.model.norm.weight'
    const { hidden_size: width } = JSON.parse(readFileSync(path.join(TINY, 'config.json'), 'utf8')) as {
      hidden_size: number
    }
    const header = JSON.stringify({ [name]: { dtype: 'F32', shape: [width], data_offsets: [0, width * 4] } })
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    writeFileSync(
      path.join(adapter, 'adapter_model.safetensors'),
      Buffer.concat([length, Buffer.from(header), Buffer.alloc(width * 4)]),
    )
    expectError(await run('convert', 'mine', 'gguf'), 1, 'needs-base', 'LoRA', 'rank 4', 'somebody/tiny', '--base')
    expectError(await run('inspect', 'mine'), 1, 'needs-base')
    const { code, stdout } = await run('inspect', 'mine', '--base', TINY)
    expect(code).toBe(0)
    expect(stdout).toContain('1 tensor that was trained whole')
    const dry = await run('convert', TINY, 'gguf', '--adapter', 'mine', '--dry-run')
    expect(dry.code).toBe(0)
    expectError(await run('convert', TINY, 'gguf', '--adapter', 'mine=0'), 2, 'bad-option', '--adapter')
    expectError(await run('convert', TINY, 'gguf', '--adapter', TINY), 2, 'bad-option', 'no LoRA adapter')
  })

  test('a truncated file names itself, and nothing is left', async () => {
    const model = tinyModel(folder)
    truncateSync(path.join(model, 'model.safetensors'), 50_000)
    expectError(await run('convert', 'tiny', 'gguf', '-o', 'out'), 1, 'truncated', 'model.safetensors')
    expect(existsSync(path.join(folder, 'out'))).toBe(false)
  })

  test('an architecture that is not converted is named', async () => {
    const config = path.join(tinyModel(folder), 'config.json')
    writeFileSync(config, readFileSync(config, 'utf8').replaceAll('LlamaForCausalLM', 'YodaForCausalLM'))
    expectError(await run('convert', 'tiny', 'gguf'), 1, 'unsupported', 'YodaForCausalLM')
  })

  test('--json: the error as an object on stdout, and in words on stderr', async () => {
    const { code, stdout, stderr } = await run('inspect', 'nowhere', '--json')
    expect(code).toBe(1)
    const said = JSON.parse(stdout) as { ok: boolean; error: ErrorData }
    expect(said).toMatchObject({ ok: false, error: { code: 'missing-file', hint: expect.any(String) as string } })
    expect(said.error).not.toHaveProperty('stack')
    expect(stderr).toMatch(/^error\[missing-file\]/)
  })

  test('--verbose says where in the code', async () => {
    expect((await run('inspect', 'nowhere', '--verbose')).stderr).toMatch(STACK)
  })
})

describe('inspect and formats', () => {
  test('inspect in words', async () => {
    tinyModel(folder)
    const { code, stdout, stderr } = await run('inspect', 'tiny')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const word of ['LlamaForCausalLM', '2 layers, width 64', 'model.safetensors', 'byte-level BPE']) {
      expect(stdout).toContain(word)
    }
  })

  test('inspect --json', async () => {
    tinyModel(folder)
    const { code, stdout, stderr } = await run('inspect', 'tiny', '--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { ok, inspection } = JSON.parse(stdout) as { ok: boolean; inspection: Inspection }
    expect(ok).toBe(true)
    expect(inspection).toMatchObject({
      format: 'huggingface',
      className: 'LlamaForCausalLM',
      layers: 2,
      vocabSize: 300,
    })
    expect(inspection.weightBytes).toBe(2 * inspection.parameters)
  })

  test('the sample comes along', async () => {
    expect((await run('inspect', 'sample')).stdout).toContain('LlamaForCausalLM')
  })

  test('formats, in words and as JSON', async () => {
    const [text, json] = await Promise.all([run('formats'), run('formats', '--json')])
    expect(text).toMatchObject({ code: 0, stderr: '' })
    for (const line of text.stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(100)
    const { formats, matrix } = JSON.parse(json.stdout) as { formats: FormatInfo[]; matrix: Matrix }
    expect(formats.find(({ id }) => id === 'huggingface')).toMatchObject({ reads: true })
    expect(formats.find(({ id }) => id === 'gguf')).toMatchObject({ writes: true })
    for (const { title } of matrix.inputs)
      expect(text.stdout).toMatch(new RegExp(`^${title} .*(all|\\d+ of \\d+)`, 'm'))
    for (const { classNames } of matrix.architectures) {
      expect(text.stdout).toMatch(new RegExp(`^${classNames[0]} +yes +yes`, 'm'))
    }
    expect(text.stdout).toMatch(/^BertModel( +yes){3}( +-){2}$/m)
  })

  test('formats FORMAT: what it reads, holds and can be told', async () => {
    const [text, json, unknown] = await Promise.all([
      run('formats', 'mlx'),
      run('formats', 'hf', '--json'),
      run('formats', 'gogo'),
    ])
    for (const words of ['mlx: MLX', 'MLX folder', 'Qwen3ForCausalLM', 'BertModel', '--group-size', 'mixed_4_6']) {
      expect(text.stdout).toContain(words)
    }
    for (const line of text.stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(100)
    const { format, inputs } = JSON.parse(json.stdout) as { format: FormatInfo; inputs: Matrix['inputs'] }
    expect(format.id).toBe('huggingface')
    expect(inputs.map(({ id }) => id)).toContain('gptq')
    expectError(unknown, 2, 'bad-option', '"gogo"', 'gguf')
  })

  test('inspect says what a model can become, and why not more', async () => {
    tinyModel(folder)
    const data = new Uint8Array(8)
    writeFileSync(path.join(folder, 'odd.safetensors'), safetensors([{ name: 'odd', dtype: 'f32', shape: [2], data }]))
    const [text, odd, json] = await Promise.all([
      run('inspect', 'tiny'),
      run('inspect', 'odd.safetensors'),
      run('inspect', 'tiny', '--json'),
    ])
    expect(text.stdout).toMatch(/^ {2}gguf +Q4_K_M 103\.63 KiB; \d+ others, .* to .*$/m)
    expect(text.stdout).toMatch(/^ {2}huggingface +Unchanged /m)
    expect(odd.stdout).toMatch(/^ {2}safetensors +Unchanged /m)
    expect(odd.stdout).toMatch(/^ {2}mlx +no: odd is not known to be a model, so it cannot become an MLX model\. Put/m)
    const { targets } = JSON.parse(json.stdout) as { targets: Target[] }
    expect(targets.filter(({ format }) => format === 'megatron')).not.toEqual([])
  })
})

describe('convert', () => {
  test('into the current folder, with a report in words', async () => {
    tinyModel(folder)
    const { code, stdout, stderr } = await run('convert', 'tiny', 'gguf', '--quant', 'Q8_0')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(listed().sort()).toEqual(['tiny', 'tiny-Q8_0.gguf'])
    expect(stdout).toMatch(/^tiny-Q8_0\.gguf /)
    expect(stdout).toContain(`sha256 ${sha256(path.join(folder, 'tiny-Q8_0.gguf'))}`)
    expect(stdout).toContain('checked: ')
  })

  test('--json is one object on stdout and nothing else anywhere', async () => {
    tinyModel(folder)
    const { code, stdout, stderr } = await run('convert', 'tiny', 'gguf', '--quant', 'f16', '--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { ok, output, report } = JSON.parse(stdout) as { ok: boolean; output: string; report: Report }
    expect({ ok, output }).toEqual({ ok: true, output: folder })
    const [file] = report.files
    expect(file?.sha256).toBe(sha256(path.join(output, file?.path ?? '')))
    expect(report.writeBytes).toBe(file?.size)
  })

  test('--dry-run says all and writes nothing', async () => {
    tinyModel(folder)
    const [text, all, json] = await Promise.all([
      run('convert', 'tiny', 'gguf', '--dry-run', '-o', 'out'),
      run('convert', 'tiny', 'gguf', '--dry-run', '-o', 'out', '--verbose'),
      run('convert', 'tiny', 'gguf', '--dry-run', '-o', 'out', '--json'),
    ])
    for (const ran of [text, all, json]) expect(ran).toMatchObject({ code: 0, stderr: '' })
    expect(listed()).toEqual(['tiny'])
    const { plan } = JSON.parse(json.stdout) as { plan: PlanSummary }
    expect(plan.tensors).toHaveLength(21)
    expect(text.stdout).toContain('blk.{0-1}.attn_q.weight')
    expect(text.stdout).toContain('out/tiny-Q4_K_M.gguf')
    expect(text.stdout).toContain(`(${plan.writeBytes.toLocaleString('en')} bytes)`)
    expect(text.stdout.split('\n').length).toBeLessThan(all.stdout.split('\n').length)
    for (const { name } of plan.tensors) expect(all.stdout).toContain(name)

    const made = await run('convert', 'tiny', 'gguf', '-o', 'out', '--json')
    const { report } = JSON.parse(made.stdout) as { report: Report }
    expect(report.files).toMatchObject(plan.files.map(({ path, size }) => ({ path, size })))
    expect(report.peakBytes).toBe(plan.peakBytes)
  })

  const outputs: readonly (readonly [string, string, string])[] = [
    ['a file', 'my.gguf', 'my.gguf'],
    ['a file in a new folder', 'a/b/my.gguf', 'a/b/my.gguf'],
    ['a file of another ending', 'my.bin', 'my.bin.gguf'],
    ['a new folder', 'out', 'out/tiny-Q4_K_M.gguf'],
    ['a new folder with a slash', 'v1.5/', 'v1.5/tiny-Q4_K_M.gguf'],
    ['a folder that is there', 'v2.0', 'v2.0/tiny-Q4_K_M.gguf'],
    ['blanks and other scripts', 'mine & yours/模型 ü.gguf', 'mine & yours/模型 ü.gguf'],
  ]
  test.each(outputs)('-o is %s', async (_, given, made) => {
    mkdirSync(path.join(folder, 'v2.0'))
    tinyModel(folder)
    const { code, stdout, stderr } = await run('convert', 'tiny', 'gguf', '-o', given, '--quiet')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout.startsWith(`${path.normalize(made)}  `), stdout).toBe(true)
    expect(readFileSync(path.join(folder, made)).subarray(0, 4).toString()).toBe('GGUF')
    // neither journals nor unfinished files stay
    expect(listed(path.dirname(path.join(folder, made)))).not.toContainEqual(expect.stringMatching(/^\.|\.part$/))
  })

  test('an output that is there is refused, and replaced if asked', async () => {
    tinyModel(folder)
    const file = path.join(folder, 'my.gguf')
    writeFileSync(file, 'precious')
    expectError(await run('convert', 'tiny', 'gguf', '-o', 'my.gguf'), 1, 'output-exists', 'my.gguf', '--overwrite')
    expect(readFileSync(file, 'utf8')).toBe('precious')
    expect(listed().sort()).toEqual(['my.gguf', 'tiny'])
    expect((await run('convert', 'tiny', 'gguf', '-o', 'my.gguf', '--overwrite')).code).toBe(0)
    expect(readFileSync(file).subarray(0, 4).toString()).toBe('GGUF')
  })

  test('warnings of one kind are summed up, or listed', async () => {
    tinyModel(folder)
    const [few, all] = [
      await run('convert', 'tiny', 'gguf'),
      await run('convert', 'tiny', 'gguf', '-o', 'o', '--verbose'),
    ]
    expect(few.stderr.match(/^warning: /gm)).toHaveLength(3)
    expect(few.stderr).toContain('more of this kind (--verbose lists them)')
    expect(all.stderr.match(/^warning: /gm)?.length).toBeGreaterThan(10)
  })

  test('-o names the parts of a split file too, and a part stands for all that lie beside it', async () => {
    tinyModel(folder)
    const parts = (stem: string): string[] => [1, 2, 3].map((no) => `${stem}-0000${no}-of-00003.gguf`)
    const split = ['--quant', 'q8_0', '--split-max-tensors', '7', '--json']
    const made = async (...args: readonly string[]): Promise<string[]> => {
      const { report } = JSON.parse((await run('convert', ...args)).stdout) as { report: Report }
      return report.files.map(({ path: name }) => name)
    }
    expect(await made('tiny', 'gguf', ...split, '-o', 'a/mine.gguf')).toEqual(parts('mine'))
    expect(listed(path.join(folder, 'a')).sort()).toEqual(parts('mine'))
    expect(await made('tiny', 'gguf', ...split, '-o', 'b/x-00001-of-00009.gguf')).toEqual(parts('x'))
    expect(await made('tiny', 'gguf', ...split)).toEqual(parts('tiny-gguf/tiny-Q8_0'))

    writeFileSync(path.join(folder, 'a', 'other.gguf'), 'not one of them')
    expect(await made('a/mine-00002-of-00003.gguf', 'gguf', '--quant', 'copy', '--json')).toEqual(['mine-copy.gguf'])
    for (const name of parts('mine').slice(1)) rmSync(path.join(folder, 'a', name))
    const alone = path.join('a', 'mine-00001-of-00003.gguf')
    const { code, stdout, stderr } = await run('inspect', alone, '--json')
    expect({ code, error: JSON.parse(stdout) as unknown }).toMatchObject({
      code: 1,
      error: { error: { code: 'missing-file', where: { missing: parts('mine').slice(1) } } },
    })
    expect(stderr).toContain('2 of the 3 files that the model is split into are missing: mine-00002')
  })

  test('an option of several texts is given once for each', async () => {
    tinyModel(folder)
    const args = ['--tensor-type', 'attn_v=q8_0', '--tensor-type', 'attn_(q|k)=bf16', '--output-tensor-type', 'F16']
    const keys = [
      '--set-metadata',
      'my.text=a=b\nc',
      '--set-metadata',
      'my.byte:u8=7',
      '--remove-metadata',
      'general.name',
    ]
    const { code, stderr } = await run('convert', 'tiny', 'gguf', '--quant', 'q4_0', '-o', 'a.gguf', ...args, ...keys)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const edits = ['--set-metadata', 'my.byte=8', '--remove-metadata', 'my.text']
    const planned = await run('convert', 'a.gguf', 'gguf', '--quant', 'copy', '--dry-run', '--verbose', ...edits)
    expect(planned.stdout).toMatch(/^my\.byte +u8 +8 \(was 7\)$/m)
    expect(planned.stdout).toMatch(/^my\.text +string +removed: a=b c$/m)
    const { stdout } = await run('convert', 'a.gguf', 'gguf', '--quant', 'copy', '--dry-run', '--json')
    const { plan } = JSON.parse(stdout) as { plan: PlanSummary }
    const type = (name: string): string | undefined => plan.tensors.find((tensor) => tensor.name === name)?.to
    expect(type('blk.0.attn_v.weight')).toBe('q8_0')
    expect(type('blk.1.attn_q.weight')).toBe('bf16')
    expect(type('blk.1.ffn_up.weight')).toBe('q4_0')
    expect(type('output.weight')).toBe('f16')
    const has = (key: string) => plan.metadata.find((entry) => entry.key === key)
    expect(has('my.text')).toEqual({ key: 'my.text', type: 'string', value: 'a=b\nc' })
    expect(has('my.byte')).toEqual({ key: 'my.byte', type: 'u8', value: '7' })
    expect(has('general.name')).toBeUndefined()
    // as a table, where it is looked for
    expect((await run('inspect', 'a.gguf', '--verbose')).stdout).toMatch(/^my\.text +string +a=b c$/m)
    expectError(
      await run('convert', 'tiny', 'gguf', '--tensor-type', 'attn_v'),
      2,
      'bad-option',
      'attn_v',
      'PATTERN=TYPE',
    )
  })

  test('the number of threads and the memory leave the bytes alone', async () => {
    tinyModel(folder)
    const hashes = new Set<string>()
    for (const more of [[], ['--threads', '1'], ['--threads', '3', '--memory', '16M']]) {
      const { stdout } = await run('convert', 'tiny', 'gguf', '--json', '--overwrite', ...more)
      hashes.add((JSON.parse(stdout) as { report: Report }).report.files[0]?.sha256 ?? '')
    }
    expect(hashes.size).toBe(1)
  })

  test('a path with blanks and other scripts', async () => {
    tinyModel(folder, 'Llama für 日本')
    const { code } = await run('convert', 'Llama für 日本', 'gguf')
    expect(code).toBe(0)
    expect(listed()).toContain('Llama für 日本-Q4_K_M.gguf')
  })

  test.skipIf(process.platform === 'win32')('the cache of the HuggingFace hub, made of links', async () => {
    const repository = path.join(folder, 'hub', 'models--acme--Tiny-Llama')
    const snapshot = path.join(repository, 'snapshots', '0123456789abcdef')
    const blobs = path.join(repository, 'blobs')
    mkdirSync(snapshot, { recursive: true })
    mkdirSync(blobs)
    for (const name of readdirSync(TINY)) {
      const blob = sha256(path.join(TINY, name))
      writeFileSync(path.join(blobs, blob), readFileSync(path.join(TINY, name)))
      symlinkSync(path.join('../../blobs', blob), path.join(snapshot, name))
    }
    expect((await run('convert', snapshot, 'gguf')).code).toBe(0)
    expect(listed()).toContain('Tiny-Llama-Q4_K_M.gguf')
    // the same model under the same name from a plain folder
    tinyModel(folder, 'Tiny-Llama')
    expect((await run('convert', 'Tiny-Llama', 'gguf', '-o', 'plain')).code).toBe(0)
    expect(sha256(path.join(folder, 'plain', 'Tiny-Llama-Q4_K_M.gguf'))).toBe(
      sha256(path.join(folder, 'Tiny-Llama-Q4_K_M.gguf')),
    )
  })
})
