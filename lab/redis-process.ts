import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePorts } from './envoy-process.ts';

/** A running Redis or Valkey server of ours. */
export interface RedisProcess {
  readonly pid: number;
  readonly port: number;
  readonly url: string;
  signal(signal: NodeJS.Signals): void;
  stop(): Promise<void>;
}

/** Starts a server in memory on a free port of 127.0.0.1, or on the one given. `args`: further settings, as on its command line. */
export async function startRedis(args: readonly string[] = [], givenPort?: number): Promise<RedisProcess> {
  const binary = process.env['REDIS_BIN'];
  if (binary === undefined) throw new Error('REDIS_BIN is not set: run through `npm test`, or name a redis-server');
  const port = givenPort ?? (await freePorts(1))[0] ?? 0;
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-redis-'));
  const settings = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder, ...args];
  const child: ChildProcess = spawn(binary, settings, { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const keep = (chunk: Buffer): void => {
    log = (log + chunk.toString('utf8')).slice(-20_000);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const stop = async (): Promise<void> => {
    process.off('exit', kill);
    // A stopped process would never see SIGTERM.
    child.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  // With TLS only, `--port 0` is among the settings and `--tls-port` names the real one.
  const tlsPort = args[args.indexOf('--tls-port') + 1];
  const listening = args.includes('--tls-port') ? Number(tlsPort) : port;
  for (let attempt = 0; attempt < 400; attempt += 1) {
    if (child.exitCode !== null) break;
    if (await accepts(listening)) return { pid: child.pid ?? -1, port: listening, url: `redis://127.0.0.1:${listening}`, signal: (signal) => void child.kill(signal), stop };
    await sleep(25);
  }
  await stop();
  throw new Error(`the Redis server did not come up on port ${listening}:\n${log}`);
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
