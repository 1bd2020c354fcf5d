import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import path from 'node:path';

/** Where a server listens: `host:port`, `[v6]:port`, or `unix:/path`. */
export type ListenAddress = { readonly kind: 'tcp'; readonly host: string; readonly port: number } | { readonly kind: 'unix'; readonly path: string };

/** Reads an address; throws for what the configuration would have refused. */
export function parseListenAddress(text: string): ListenAddress {
  if (text.startsWith('unix:')) {
    const file = text.slice('unix:'.length);
    if (!path.isAbsolute(file)) throw new Error(`not unix:/path: ${text}`);
    return { kind: 'unix', path: file };
  }
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  const port = Number(text.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port) || port < 0 || port > 65_535) throw new Error(`not host:port: ${text}`);
  return { kind: 'tcp', host, port };
}

/** Whether all who can connect are on this machine: a Unix socket, or a loopback address. */
export function isLocal(address: ListenAddress): boolean {
  return address.kind === 'unix' || address.host === '::1' || address.host === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(address.host);
}

/**
 * Removes the socket that a process left behind which did not end well: its file stays and keeps the next from listening. A socket at which
 * somebody answers stays, and so does what is no socket; listening then fails and says so.
 */
export async function removeStaleSocket(file: string): Promise<void> {
  const found = await lstat(file).catch(() => undefined);
  if (found?.isSocket() !== true) return;
  const isServed = await new Promise<boolean>((resolve) => {
    const socket = connect(file);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Anything but a refusal may be a server that is just busy, or not ours to look into.
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'));
  });
  if (!isServed) await unlink(file).catch(() => undefined);
}

/** Says who may connect to a socket. Until then its folder does. */
export async function setSocketMode(file: string, mode: number): Promise<void> {
  await chmod(file, mode);
}

/** Lets a server listen; resolves to its port, 0 on a Unix socket. Rejects with what the system says. */
export async function listenOn(server: Server, address: ListenAddress, socketMode: number): Promise<number> {
  if (address.kind === 'unix') await removeStaleSocket(address.path);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const listening = (): void => {
      server.off('error', reject);
      resolve();
    };
    if (address.kind === 'unix') server.listen(address.path, listening);
    else server.listen(address.port, address.host, listening);
  });
  if (address.kind === 'unix') await setSocketMode(address.path, socketMode);
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? bound.port : 0;
}
