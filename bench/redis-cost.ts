// `npm run bench:redis`: what state shared through Redis costs on this machine, in bytes and CPU per request, for several numbers of
// routers and request rates; how late the others hear; and up to where pushing every event holds. Prints a table, writes
// bench/results/redis-cost.json.
//
// Each router is a process with the real router, fleet, exchange and Redis client, driven by a loop instead of gRPC: Envoy's protocol
// costs the same with and without shared state, and on a small machine its client alone would leave no room for eight routers. A
// request is what it is in service: a decision (dispatch), a first token, an end; three events. Its cost with shared state is the CPU of
// the whole process (user + system, as the operating system counts it) less that of the same run with state in memory; the runs
// alternate: memory, redis, memory, redis.
import { type ChildProcess, fork } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { startRedis } from '../lab/redis-process.ts';
import { type CompiledConfig, loadConfig } from './router-under-load.ts';
