import { CapLedger } from '../../src/app/workers/cap-ledger.ts';
import { createWorkerExchange, type WorkerExchange } from '../../src/app/workers/worker-exchange.ts';
import type { FromWorker } from '../../src/app/workers/worker-messages.ts';
import { FleetView } from '../../src/fleet/fleet-view.ts';
import { Placements } from '../../src/fleet/placements.ts';
import { SharedState } from '../../src/fleet/shared-state.ts';
import { createMemoryExchange } from '../../src/router/memory-exchange.ts';
import type { StateExchange } from '../../src/router/ports.ts';
import { describeStateExchange } from './state-exchange-suite.ts';

/** That of a worker, and as much of a supervisor as it speaks to. */
function createForWorker(): StateExchange {
  const ledger = new CapLedger(() => performance.now());
  const post = (message: FromWorker): void => {
    if (message.kind === 'cap-release') ledger.release(message.pool, message.address, message.lease);
    if (message.kind !== 'cap-ask') return;
    const { id, pool, lease, endpoints } = message;
    setImmediate(() => exchange.receive({ kind: 'cap-answer', id, taken: ledger.acquire('w0', pool, lease, endpoints) }));
  };
  const exchange: WorkerExchange = createWorkerExchange({
    groupId: 'contract',
    routerId: 'contract-w0',
    state: new SharedState(new FleetView([{ name: 'chat', endpoints: [{ address: '10.0.0.1:80', weight: 1, labels: {}, requestsMax: 2 }] }]), new Placements()),
    clock: { nowMs: () => performance.now() },
    events: { pushingChanged: () => {} },
    onForwarded: () => {},
    post,
  });
  return exchange;
}

// The same for Redis: test/integration/redis-exchange.test.ts.
describeStateExchange('memory', createMemoryExchange);
describeStateExchange('workers', createForWorker);
