import { parseHostPort } from './schema.ts';

/**
 * Where each worker serves gRPC: an address of its own, since one that is shared leaves workers without a connection. TCP: the ports from
 * that of `grpc` on, but for the one of `admin`; port 0 takes a free one for each. Unix: `path.0`, `path.1` and on. One worker alone has
 * `grpc` itself. Both addresses are as `listen` takes them. Returns what is wrong as text.
 */
export function toWorkerAddresses({ grpc, admin }: { readonly grpc: string; readonly admin: string }, workers: number): readonly string[] | string {
  if (workers === 1) return [grpc];
  if (grpc.startsWith('unix:')) return Array.from({ length: workers }, (_, worker) => `${grpc}.${worker}`);
  const { port = 0 } = parseHostPort(grpc) ?? {};
  if (port === 0) return Array.from({ length: workers }, () => grpc);
  const host = grpc.slice(0, grpc.lastIndexOf(':'));
  const taken = parseHostPort(admin)?.port;
  const ports: number[] = [];
  for (let next = port; ports.length < workers; next += 1) if (next !== taken || next === port) ports.push(next);
  const last = ports.at(-1) ?? port;
  if (last > 65_535) return `expected a lower port: ${workers} workers take those up to ${last}`;
  return ports.map((one) => `${host}:${one}`);
}
