import { transferHandlers } from 'comlink'
import { AppError, type ErrorData } from '../core/errors.ts'

/**
 * Comlink drops an error's own fields: with this on both sides of a channel, what is thrown arrives as the AppError it
 * was, with code, place, hint and stack.
 */
export function installTransferHandlers(): void {
  const original = transferHandlers.get('throw')
  if (original === undefined) throw new AppError('internal', 'this Comlink has no handler for what is thrown')
  transferHandlers.set('throw', {
    canHandle: original.canHandle,
    serialize: (thrown): [ErrorData, []] => [AppError.from((thrown as { value: unknown }).value).toData(), []],
    deserialize(data): never {
      throw AppError.fromData(data as ErrorData)
    },
  })
}
