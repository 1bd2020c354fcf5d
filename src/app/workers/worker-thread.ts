// What a worker thread runs: the same service as a process of its own, led by the supervisor.
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { compile } from '../../config/compile.ts';
import { createLogger } from '../../telemetry/logger.ts';
import type { MetricJson } from '../../telemetry/metric-totals.ts';
import { type Service, startService } from '../service.ts';
import { createWorkerExchange, type WorkerExchange } from './worker-exchange.ts';
import type { FromWorker, PlainAnswer, PlainRequest, Question, ToWorker, WorkerStart } from './worker-messages.ts';

/** Time for the last log lines to be written before the thread ends, in ms. */
const lastLinesMs = 100;

const { worker, routerId, groupId, listen, config: text, file, warnings } = workerData as WorkerStart;
const port = parentPort;
if (port === null) throw new Error('this runs as a worker thread only');
const post = (message: FromWorker): void => port.postMessage(message);

const logger = createLogger({ level: text.settings.log.level }).child({ worker });
// One stray rejection must not end all requests of this thread. An exception does: the supervisor logs it, and replaces the thread.
process.on('unhandledRejection', (error) => logger.error({ err: error }, 'unhandled rejection'));

let exchange: WorkerExchange | undefined;
let service: Service | undefined;

port.on('message', (message: ToWorker) => {
  switch (message.kind) {
    case 'ask':
      void answer(message);
      return;
    case 'cap-answer':
    case 'placements':
      exchange?.receive(message);
      return;
    case 'reload':
      service?.reload(message.cause);
      return;
    case 'reopen-logs':
      service?.reopenLogs();
      return;
    case 'drain':
      void drain();
  }
});

try {
  service = await start();
  post({ kind: 'serving', grpcPort: service.grpcPort });
} catch (error) {
  post({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
  await sleep(lastLinesMs);
  process.exit(1);
}

function start(): Promise<Service> {
  const compiled = compile(text.settings, text.files);
  // The supervisor, or this worker's predecessor, goes by the same.
  if (!compiled.ok) throw new Error(`the configuration in force cannot be compiled: ${compiled.problems.map(({ path, message }) => `${path}: ${message}`).join('; ')}`);
  const config = { ...compiled.config, affinitySecret: text.affinitySecret };
  return startService(config, { file, warnings }, logger, {
    routerId,
    listen,
    createExchange: (parts) => (exchange = createWorkerExchange({ ...parts, groupId, post })),
    configured: ({ settings, files, affinitySecret }) => post({ kind: 'configured', config: { settings, files, affinitySecret } }),
  });
}

async function answer(question: Question): Promise<void> {
  const { id } = question;
  try {
    post({ kind: 'answer', id, answered: await find(question) });
  } catch (error) {
    post({ kind: 'no-answer', id, message: error instanceof Error ? error.message : String(error) });
  }
}

async function find(question: Question): Promise<PlainAnswer | readonly MetricJson[] | undefined> {
  if (question.what === 'ping') return undefined;
  if (service === undefined) throw new Error('starting');
  if (question.what === 'http') return fetchPlain(service, question.asked);
  return (await service.registry.getMetricsAsJSON()) as unknown as MetricJson[];
}

async function fetchPlain({ fetch }: Service, { method, path, headers, body }: PlainRequest): Promise<PlainAnswer> {
  const request = new Request(new URL(path, 'http://127.0.0.1'), { method, headers: headers.map(([name, value]): [string, string] => [name, value]), ...(body !== undefined && { body }) });
  const response = await fetch(request);
  return { status: response.status, headers: [...response.headers], body: await response.text() };
}

async function drain(): Promise<void> {
  await service?.drain();
  post({ kind: 'drained' });
  await sleep(lastLinesMs);
  process.exit(0);
}
