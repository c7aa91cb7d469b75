/** Q5_1: as Q4_1, with codes of five bits stored as in Q5_0. Layout: `block_q5_1` of ggml-common.h. */
import type { BlockCodec } from './codec.ts'
import { readCodes5, writeCodes5 } from './codes32.ts'
import { scaleMinCodec } from './q4_1.ts'

export const q5_1: BlockCodec = scaleMinCodec('q5_1', 31, writeCodes5, readCodes5)
