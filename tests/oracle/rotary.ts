/** How a head's channels turn with the position: pairs of the first `2 * frequencies.length` channels. */
export interface Rotary {
  readonly frequencies: readonly number[]
  /** Queries and keys are multiplied by it. */
  readonly magnitude: number
  /** Channel 2i turns with 2i + 1, instead of i with i + half. */
  readonly interleaved: boolean
}

/** `rope_scaling`, or `rope_parameters`. */
export interface Scaling {
  readonly rope_type?: string
  readonly rope_theta?: number
  readonly factor?: number
  readonly original_max_position_embeddings?: number
  readonly low_freq_factor?: number
  readonly high_freq_factor?: number
  readonly alpha?: number
}

export function plain(theta: number, channels: number, interleaved = false): Rotary {
  const frequencies = Array.from({ length: channels / 2 }, (_, i) => theta ** ((-2 * i) / channels))
  return { frequencies, magnitude: 1, interleaved }
}

export function linear(theta: number, channels: number, factor: number): Rotary {
  const rotary = plain(theta, channels)
  return { ...rotary, frequencies: rotary.frequencies.map((frequency) => frequency / factor) }
}

/** Fast turns stay, slow ones are stretched; in between, a ramp over the channels. */
export function yarn(theta: number, channels: number, scaling: Scaling): Rotary {
  const factor = scaling.factor!
  const rotary = plain(theta, channels)
  const channelOf = (turns: number): number =>
    (channels * Math.log(scaling.original_max_position_embeddings! / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const low = Math.max(Math.floor(channelOf(32)), 0)
  const high = Math.min(Math.ceil(channelOf(1)), channels - 1)
  const frequencies = rotary.frequencies.map((frequency, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
    return (frequency / factor) * ramp + frequency * (1 - ramp)
  })
  return { ...rotary, frequencies, magnitude: 0.1 * Math.log(factor) + 1 }
}

export function llama3(theta: number, channels: number, scaling: Scaling): Rotary {
  const rotary = plain(theta, channels)
  const context = scaling.original_max_position_embeddings!
  const [low, high, factor] = [scaling.low_freq_factor!, scaling.high_freq_factor!, scaling.factor!]
  const frequencies = rotary.frequencies.map((frequency) => {
    const turns = (context * frequency) / (2 * Math.PI)
    if (turns > high) return frequency
    if (turns < low) return frequency / factor
    const smooth = (turns - low) / (high - low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
  return { ...rotary, frequencies }
}

/** A head at a position. */
export function rotate(x: readonly number[], position: number, rotary: Rotary): number[] {
  const { frequencies, magnitude, interleaved } = rotary
  const half = frequencies.length
  const turned = [...x]
  for (const [i, frequency] of frequencies.entries()) {
    const [a, b] = interleaved ? [2 * i, 2 * i + 1] : [i, i + half]
    const [cos, sin] = [Math.cos(position * frequency), Math.sin(position * frequency)]
    turned[a] = magnitude * (x[a]! * cos - x[b]! * sin)
    turned[b] = magnitude * (x[b]! * cos + x[a]! * sin)
  }
  return turned
}
