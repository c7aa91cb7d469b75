/** The library in Node: the API, its host, and the command line as a function. */
export { createApi, type Api } from '../src/api/api.ts'
export type { Host } from '../src/api/host.ts'
export { createNodeHost, type NodeHostOptions } from './host.ts'
export { main, type Terminal } from './main.ts'
