#!/usr/bin/env node
import { main } from './main.ts'

// `modelconvert formats | head`: who reads no further has what he wanted
process.stdout.on('error', (error: Error & { code?: string }) => {
  if (error.code === 'EPIPE') process.exit()
  throw error
})

process.exitCode = await main(process.argv.slice(2))
