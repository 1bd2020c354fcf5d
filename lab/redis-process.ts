import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
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
  const port = givenPort ?? (await freePorts(1))[0] ?? 0;
  // With TLS only, `--port 0` is among the settings and `--tls-port` names the real one.
  const tlsPort = args[args.indexOf('--tls-port') + 1];
  const listening = args.includes('--tls-port') ? Number(tlsPort) : port;
  return launch(listening, (folder) => ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder, ...args]);
}

/** Starts a sentinel that alone decides on a failover of `main`, half a second after its master went silent. */
export async function startSentinel(master: RedisProcess): Promise<RedisProcess> {
  const port = (await freePorts(1))[0] ?? 0;
  const lines = [
    `port ${port}`,
    'bind 127.0.0.1',
    `sentinel monitor main 127.0.0.1 ${master.port} 1`,
    'sentinel down-after-milliseconds main 500',
    'sentinel failover-timeout main 3000',
  ];
  return launch(port, async (folder) => {
    const file = path.join(folder, 'sentinel.conf');
    await writeFile(file, `${lines.join('\n')}\n`);
    return [file, '--sentinel', '--dir', folder];
  });
}

/** Starts a cluster of three masters without replicas, ready for use. */
export async function startRedisCluster(): Promise<{ readonly nodes: readonly RedisProcess[]; stop(): Promise<void> }> {
  const ports = await freePorts(6);
  const nodes = await Promise.all(
    ports.slice(0, 3).map((port, i) =>
      startRedis(['--cluster-enabled', 'yes', '--cluster-port', String(ports[i + 3]), '--cluster-node-timeout', '1000', '--cluster-require-full-coverage', 'no'], port),
    ),
  );
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  const clients = nodes.map(({ port }) => new Redis({ port, host: '127.0.0.1' }));
  try {
    const slots = [0, 5_461, 10_923, 16_384];
    for (const [i, client] of clients.entries()) {
      await client.call('CLUSTER', 'SET-CONFIG-EPOCH', String(i + 1));
      await client.call('CLUSTER', 'ADDSLOTSRANGE', String(slots[i]), String((slots[i + 1] ?? 0) - 1));
      if (i > 0) await client.call('CLUSTER', 'MEET', '127.0.0.1', String(ports[0]), String(ports[3]));
    }
    for (let attempt = 0; ; attempt += 1) {
      const infos = await Promise.all(clients.map((client) => client.call('CLUSTER', 'INFO') as Promise<string>));
      if (infos.every((info) => info.includes('cluster_state:ok') && info.includes('cluster_known_nodes:3'))) break;
      if (attempt > 400) throw new Error(`the cluster did not come up:\n${infos.join('\n')}`);
      await sleep(25);
    }
  } catch (error) {
    await stop();
    throw error;
  } finally {
    for (const client of clients) client.disconnect();
  }
  return { nodes, stop };
}

/** Whether the server at hand was built with TLS. */
export async function redisSpeaksTls(): Promise<boolean> {
  // Without TLS the setting is unknown; with it, the server misses a certificate.
  const outcome = await promisify(execFile)(redisBinary(), ['--port', '0', '--tls-port', '1'], { timeout: 5_000 }).then(
    ({ stdout, stderr }) => stdout + stderr,
    (error: unknown) => {
      const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
      return stdout + stderr;
    },
  );
  return /tls-cert-file|certificate|Failed to configure TLS/i.test(outcome) && !/Bad directive/i.test(outcome);
}

function redisBinary(): string {
  const binary = process.env['REDIS_BIN'];
  if (binary === undefined) throw new Error('REDIS_BIN is not set: run through `npm test`, or name a redis-server');
  return binary;
}

async function launch(port: number, settings: (folder: string) => readonly string[] | Promise<readonly string[]>): Promise<RedisProcess> {
  const binary = redisBinary();
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-redis-'));
  const child: ChildProcess = spawn(binary, await settings(folder), { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const keep = (chunk: Buffer): void => {
    log = (log + chunk.toString('utf8')).slice(-20_000);
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      log += error.message;
      resolve();
    });
    child.once('close', () => resolve());
  });
  const stop = async (): Promise<void> => {
    process.off('exit', kill);
    // A stopped process would never see SIGTERM.
    child.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  for (let attempt = 0; attempt < 400; attempt += 1) {
    if (child.exitCode !== null || child.pid === undefined) break;
    if (await accepts(port)) return { pid: child.pid, port, url: `redis://127.0.0.1:${port}`, signal: (signal) => void child.kill(signal), stop };
    await sleep(25);
  }
  await stop();
  throw new Error(`the Redis server did not come up on port ${port}:\n${log}`);
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
