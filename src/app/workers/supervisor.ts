import { performance } from 'node:perf_hooks';
import { serveAdmin } from '../../admin/server.ts';
import type { CompiledConfig } from '../../config/load-outcome.ts';
import { toWorkerAddresses } from '../../config/worker-addresses.ts';
import { parseHostPort } from '../../config/schema.ts';
import type { Logger } from '../../telemetry/logger.ts';
import { MetricTotals } from '../../telemetry/metric-totals.ts';
import { createWorkerMetrics } from '../../telemetry/worker-metrics.ts';
import { type ConfigOrigin, createRouterId, type Service } from '../service.ts';
import { CapLedger } from './cap-ledger.ts';
import { ChangeJournal } from './change-journal.ts';
import { KeptPlacements } from './kept-placements.ts';
import type { ConfigText } from './worker-messages.ts';
import { type SlotMessage, WorkerSlot } from './worker-slot.ts';
import { createWorkersApp } from './workers-app.ts';

/** Workers that run. */
export interface Workers extends Omit<Service, 'fetch' | 'registry'> {
  /** Where each serves, in their order. */
  readonly addresses: readonly string[];
  readonly slots: readonly WorkerSlot[];
}

/** Time between looks whether all threads still answer, in ms. */
const pingEveryMs = 5_000;
/** Time that a worker has to end once the deadline of its drain is over, in ms. */
const endMsMax = 5_000;

const workerForced =
  'A worker had not ended when its drain was over, and was ended by force; requests that it had open are lost. Its thread hung, or what it waited for: see what it logged last.';
const adminFailed = 'The admin server of the workers failed. This is a bug: please report it.';
const workerLost =
  'A worker ended that nobody told to, and is replaced. Envoy sends the requests that it had not decided on yet to another one; its counts go, and places on endpoints with a limit after a while. See what it threw.';

/**
 * Runs the service in so many threads, each with a port or socket of its own, and leads them: they start, reload and drain as one, share one
 * admin address, and one that ends is replaced. Rejects, when nothing is left running, with what keeps one of them from starting.
 */
export async function startWorkers(config: CompiledConfig, origin: ConfigOrigin, workers: number, logger: Logger): Promise<Workers> {
  const { settings } = config;
  const addresses = toWorkerAddresses(settings.listen, workers);
  if (typeof addresses === 'string') throw new Error(`listen.grpc: ${addresses}`);
  const groupId = createRouterId();
  /** What all workers go by, and what a replacement starts with. */
  let inForce: ConfigText = { settings, files: config.files, affinitySecret: config.affinitySecret };
  let isDraining = false;
  const nowMs = (): number => performance.now();
  const ledger = new CapLedger(nowMs);
  const placements = new KeptPlacements();
  const totals = new MetricTotals();
  const journal = new ChangeJournal();
  const metrics = createWorkerMetrics({
    workers,
    serving: () => slots.filter(({ state }) => state === 'serving').length,
    latest: (worker) => totals.latest(worker),
  });

  const receive = (slot: WorkerSlot, message: SlotMessage): void => {
    switch (message.kind) {
      case 'configured':
        inForce = message.config;
        logger.level = inForce.settings.log.level;
        placements.keepPools(new Set(inForce.settings.pools.map(({ name }) => name)));
        return;
      case 'cap-ask': {
        const { id, pool, lease, endpoints } = message;
        slot.post({ kind: 'cap-answer', id, taken: ledger.acquire(slot.routerId, pool, lease, endpoints) });
        return;
      }
      case 'cap-release':
        ledger.release(message.pool, message.address, message.lease);
        return;
      case 'store-placements':
        placements.store(message.pool, message.placements);
        return;
      case 'ask-placements':
        for (const pool of message.pools) {
          const kept = placements.read(pool);
          if (kept.length > 0) slot.post({ kind: 'placements', pool, placements: kept });
        }
    }
  };
  const slots = addresses.map(
    (listen, worker) =>
      new WorkerSlot({
        worker,
        listen,
        groupId,
        describe: () => ({ config: inForce, file: origin.file, warnings: origin.warnings }),
        nowMs,
        onMessage: receive,
        onLost: (slot, cause, delayMs) => {
          logger.error({ event: 'worker_lost', worker, listen: slot.listen, delayMs, err: cause }, workerLost);
          ledger.ended(slot.routerId);
          totals.ended(worker);
          metrics.restarted();
        },
        onServing: (slot, isReplacement) => {
          if (!isReplacement) return;
          logger.warn({ event: 'worker_replaced', worker, listen: slot.listen }, 'A worker serves in place of one that ended.');
          // What operators changed by hand its siblings know; the configuration does not say it.
          for (const request of journal.list()) void slot.ask('http', request);
        },
      }),
  );
  const started = await Promise.allSettled(slots.map((slot) => slot.start()));
  const failed = started.find((outcome) => outcome.status === 'rejected');
  if (failed !== undefined) {
    await Promise.all(slots.map((slot) => slot.kill()));
    throw failed.reason instanceof Error ? failed.reason : new Error(String(failed.reason));
  }

  const onError = (error: unknown): void => logger.error({ event: 'internal_error', err: error }, adminFailed);
  const app = createWorkersApp({ slots, journal, metrics, totals, isDraining: () => isDraining, onError });
  const admin = await serveAdmin(app, { address: settings.listen.admin, onError }).catch(async (error: unknown) => {
    await Promise.all(slots.map((slot) => slot.kill()));
    throw error;
  });
  const pings = setInterval(() => {
    for (const slot of slots) void slot.checkAlive();
  }, pingEveryMs);
  const listening = slots.map(({ listen }) => listen);
  const grpcPorts = listening.map((listen) => parseHostPort(listen)?.port ?? 0);
  logger.info({ router: groupId, workers, listen: listening, grpcPort: grpcPorts[0], grpcPorts, adminPort: admin.port }, 'serving');

  const drain = async (): Promise<void> => {
    isDraining = true;
    clearInterval(pings);
    const { readinessDelayMs, deadlineMs } = inForce.settings.drain;
    await Promise.all(
      slots.map(async (slot) => {
        if (!(await slot.drain(readinessDelayMs + deadlineMs + endMsMax))) logger.error({ event: 'worker_forced', worker: slot.worker, listen: slot.listen }, workerForced);
      }),
    );
    await admin.close();
    logger.info('all workers stopped');
  };
  let draining: Promise<void> | undefined;
  const toAll = (message: Parameters<WorkerSlot['post']>[0]): void => {
    for (const slot of slots) slot.post(message);
  };
  return {
    grpcPort: grpcPorts[0] ?? 0,
    adminPort: admin.port,
    addresses: listening,
    slots,
    reopenLogs: () => toAll({ kind: 'reopen-logs' }),
    reload: (cause) => toAll({ kind: 'reload', cause }),
    drain: () => (draining ??= drain()),
  };
}
