export { AppError } from '../../src/core/errors.ts'
export { Session, isRecommended } from '../../src/ui/state/session.svelte.ts'
export { createFakeWire } from './fake-wire.ts'
