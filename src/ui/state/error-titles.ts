import type { ErrorCode } from '../../core/errors.ts'

/** What each kind of failure is called on the error card. */
export const ERROR_TITLES: Readonly<Record<ErrorCode, string>> = {
  'not-a-model': 'No model found there',
  unsupported: 'This cannot be converted yet',
  'needs-base': 'An adapter needs its base model',
  malformed: 'A file is damaged',
  truncated: 'A file is incomplete',
  'missing-file': 'A file is missing',
  'missing-tensor': 'The model is incomplete',
  'bad-tensor': 'A tensor is not what the model says',
  'bad-weights': 'Some weights cannot be converted',
  'bad-option': 'An option does not fit',
  'source-changed': 'The model changed meanwhile',
  'source-lost': 'The model can no longer be read',
  'output-exists': 'A file of that name is already there',
  'output-denied': 'The folder cannot be written to',
  'no-space': 'There is not enough space',
  memory: 'This needs more memory than there is',
  device: 'The calculation failed',
  busy: 'This conversion already runs elsewhere',
  cancelled: 'Cancelled',
  internal: 'Something went wrong in here',
}
