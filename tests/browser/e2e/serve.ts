import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { preview } from 'vite'

const ROOT = path.resolve(import.meta.dirname, '../../..')
const APP = path.join(ROOT, 'dist/app')

/** A server of the built page. */
export interface Site {
  readonly url: string
  close(): Promise<void>
}

/** What `npm start` serves with. */
export async function startPreview(): Promise<Site> {
  requireBuild()
  const server = await preview({ root: ROOT, logLevel: 'silent', preview: { port: 0, host: '127.0.0.1' } })
  return { url: address(server.httpServer as Server), close: () => server.close() }
}

export interface StaticOptions {
  /** Whether it sends the headers that make the page cross-origin isolated; many hosts cannot. */
  readonly isolated: boolean
  /** Serves this folder in place of the sample. */
  readonly sample?: string
  /** Serves the page below this path. */
  readonly base?: string
  /** What the service worker has at its end: something else makes it a new version. */
  readonly addToWorker?: () => string
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.webmanifest': 'application/manifest+json',
}

/** A plain file server, as a static host is. */
export async function startStatic({ isolated, sample, base = '/', addToWorker }: StaticOptions): Promise<Site> {
  requireBuild()
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://local')
    const name = pathname.startsWith(base) ? decodeURIComponent(pathname.slice(base.length)) || 'index.html' : '..'
    const file =
      sample !== undefined && name.startsWith('sample/') ? path.join(sample, name.slice(7)) : path.join(APP, name)
    if (name.includes('..') || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404).end()
      return
    }
    response.setHeader('Content-Type', TYPES[path.extname(file)] ?? 'application/octet-stream')
    response.setHeader('Cache-Control', 'no-store')
    if (isolated) {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin')
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp')
    }
    if (name === 'sw.js' && addToWorker !== undefined) response.end(readFileSync(file, 'utf8') + addToWorker())
    else createReadStream(file).pipe(response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: address(server) + base.slice(1),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function address(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

function requireBuild(): void {
  if (!existsSync(path.join(APP, 'index.html'))) throw new Error('There is no dist/app: run "npm run build" first.')
}
