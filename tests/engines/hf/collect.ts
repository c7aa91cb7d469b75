/** All that a generator yields. */
export async function collect<T>(generator: AsyncGenerator<T, void, void>): Promise<T[]> {
  const all: T[] = []
  for await (const one of generator) all.push(one)
  return all
}
