import { fork, spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { runProgram } from '../../lab/child-process.ts';
import type { LoadJob, LoadResult } from './load-job.ts';
import type { NodeLoadOrder, NodeLoadReply } from './node-load.ts';
import { nonceDigits } from './requests.ts';

/** Something that sends requests as fast as told and says how it went. */
export interface LoadGenerator {
  readonly name: string;
  run(job: LoadJob): Promise<LoadResult>;
}

export type LoadGeneratorName = 'wrk' | 'node';

const folder = path.dirname(fileURLToPath(import.meta.url));

/** Whether `wrk` is installed (Debian: package wrk). */
export function hasWrk(): boolean {
  // It has no option that succeeds without a URL: that it starts is all that is asked.
  return spawnSync('wrk', ['--version']).error === undefined;
}

/** A generator by name. `node` needs nothing installed, but takes some ten times the CPU of wrk for a request. */
export function createLoadGenerator(name: LoadGeneratorName): LoadGenerator {
  return { name, run: name === 'wrk' ? runWrk : runNode };
}

// Numbers go on from run to run, so that the end of each prompt stays one that nobody has seen.
let number = 1;
function takeNumbers(): number {
  const from = number;
  number += 1_000_000;
  return from;
}

async function runWrk(job: LoadJob): Promise<LoadResult> {
  const requests = await mkdtemp(path.join(tmpdir(), 'fairlead-requests-'));
  try {
    const index: string[] = [];
    await Promise.all(
      job.requests.map(async (template, i) => {
        const length = Buffer.byteLength(template.before) + nonceDigits + Buffer.byteLength(template.after);
        const headers = Object.entries({ host: 'bench', ...template.headers, 'content-length': String(length) });
        const head = `POST ${job.pathname} HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
        const before = Buffer.from(head + template.before);
        index[i] = `${i} ${before.length}`;
        await writeFile(path.join(requests, String(i)), Buffer.concat([before, Buffer.from('0'.repeat(nonceDigits) + template.after)]));
      }),
    );
    await writeFile(path.join(requests, 'index'), `${index.join('\n')}\n`);
    const args = ['-t1', `-c${job.connections}`, `-d${Math.max(1, Math.round(job.durationMs / 1000))}s`, '--timeout', '20s'];
    args.push('-s', path.join(folder, 'wrk-requests.lua'), job.origin, '--', requests, String(job.thinkMs), String(takeNumbers()));
    const wrk = runProgram('wrk', args, { name: 'wrk' });
    const code = await wrk.ended;
    const result = /^RESULT (\{.*\})$/m.exec(wrk.log())?.[1];
    if (code !== 0 || result === undefined) throw new Error(`wrk ended with ${code}:\n${wrk.log()}`);
    return JSON.parse(result) as LoadResult;
  } finally {
    await rm(requests, { recursive: true, force: true });
  }
}

function runNode(job: LoadJob): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const child = fork(path.join(folder, 'node-load.ts'));
    let reply: NodeLoadReply | undefined;
    child.once('message', (message: NodeLoadReply) => (reply = message));
    child.once('error', reject);
    child.once('close', (code) => {
      if (reply === undefined) reject(new Error(`the load generator ended with ${code ?? 'a signal'}`));
      else resolve(reply);
    });
    child.send({ ...job, firstNumber: takeNumbers() } satisfies NodeLoadOrder);
  });
}
