import { createSocket, type Socket } from 'node:dgram';
import { type Answer, decode, encode } from 'dns-packet';

/** One record; the TTL is in seconds. */
export interface ZoneRecord {
  readonly ttl: number;
  /** An address, or where a service is. */
  readonly data: string | { readonly target: string; readonly port: number; readonly weight: number; readonly priority: number };
}

/** What a name has, by type; or the code of a refusal; or nothing is ever answered. */
export type Zone = Record<string, Partial<Record<'A' | 'AAAA' | 'SRV', readonly ZoneRecord[]>> | 'NXDOMAIN' | 'SERVFAIL' | 'silent'>;

/** A name server on loopback that says what a test wants. */
export interface FakeNameServer {
  /** `ip:port`. */
  readonly address: string;
  /** What it answers from now on; names that are not in it do not exist. */
  zone: Zone;
  /** Questions so far, as `name type`. */
  readonly questions: readonly string[];
  stop(): Promise<void>;
}

const codes = { NOERROR: 0, SERVFAIL: 2, NXDOMAIN: 3 } as const;
const authoritative = 1 << 10;

export async function startFakeNameServer(zone: Zone): Promise<FakeNameServer> {
  const socket: Socket = createSocket('udp4');
  const questions: string[] = [];
  const server = { zone };
  socket.on('message', (message, { port, address }) => {
    const query = decode(message);
    const question = query.questions?.[0];
    if (question === undefined) return;
    const { name, type } = question;
    questions.push(`${name} ${type}`);
    const entry = server.zone[name] ?? 'NXDOMAIN';
    if (entry === 'silent') return;
    const code = typeof entry === 'string' ? codes[entry] : codes.NOERROR;
    const records = typeof entry === 'string' ? [] : (entry[type as 'A'] ?? []);
    const answers = records.map((record) => ({ name, type, ...record }) as Answer);
    socket.send(encode({ type: 'response', id: query.id ?? 0, flags: authoritative | code, questions: [question], answers }), port, address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  return {
    address: `127.0.0.1:${socket.address().port}`,
    get zone() {
      return server.zone;
    },
    set zone(next) {
      server.zone = next;
    },
    questions,
    stop: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}
