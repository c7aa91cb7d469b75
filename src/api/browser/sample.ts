import type { Folder, PlacedFile } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { openFiles } from './bytes-file.ts'

/** The files of the model that the project ships (`sample/`), a Llama of 5.8 million weights. */
export const SAMPLE_FILES = [
  'chat_template.jinja',
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
] as const

/** Loads the sample from the page's own origin (12 MB, held by the browser). Throws `missing-file`, `source-lost`. */
export async function openSample(base: URL): Promise<Folder> {
  const files = SAMPLE_FILES.map(async (path): Promise<PlacedFile> => {
    let response: Response
    try {
      response = await fetch(new URL(path, base))
    } catch (cause) {
      throw new AppError('source-lost', `The sample's ${path} could not be loaded`, {
        where: { file: path },
        hint: 'Open the page once with a network connection; after that the sample is kept.',
        cause,
      })
    }
    // A server of single-page apps answers with the page itself for what it does not have.
    if (!response.ok || response.headers.get('content-type')?.startsWith('text/html') === true) {
      throw new AppError('missing-file', `The sample's ${path} is not on this server (${response.status})`, {
        where: { file: path },
        hint: 'Whoever put this page on the server has to add the folder sample.',
      })
    }
    return { path, file: await response.blob() }
  })
  return openFiles('sample', await Promise.all(files))
}
