import { availableParallelism } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { workersMax } from '../config/schema.ts';

/** How many workers are asked for. */
export type WorkerCount = number | 'auto';

/** Reads what was written on the command line. */
export function parseWorkers(text: string): WorkerCount {
  const count = Number(text);
  if (text !== 'auto' && !(Number.isInteger(count) && count >= 1 && count <= workersMax)) throw new InvalidArgumentError(`Expected 1 to ${workersMax}, or auto.`);
  return text === 'auto' ? text : count;
}

/** On this machine: `auto` is one for each core that this process may use. */
export function toWorkerCount(count: WorkerCount): number {
  return count === 'auto' ? Math.min(workersMax, availableParallelism()) : count;
}
