import { AppError } from '../../core/errors.ts'

/** The group of input `column`: what `groups` says, or by place. Throws `bad-tensor` for one that is none of `count`. */
export function groupOf(groups: Int32Array | null, column: number, group: number, count: number): number {
  if (groups === null) return Math.floor(column / group)
  const own = groups[column] as number
  if (own >= 0 && own < count) return own
  throw new AppError('bad-tensor', `g_idx puts input ${column} in group ${own}; there are ${count}`, {
    hint: 'The checkpoint is damaged, or was packed by a faulty tool: get it again.',
  })
}
