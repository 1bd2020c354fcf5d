import type { PlainRequest } from './worker-messages.ts';

/** Changes kept at most. */
const changesMax = 1_000;

const memberPath = /^\/api\/v1\/pools\/([^/]+)\/endpoints(?:\/([^/]+))?$/;
const weightsPath = /^\/api\/v1\/routes\/[^/]+\/weights$/;

/** What operators changed through the admin API and no configuration says, of each matter the latest: a worker that joins takes it up. */
export class ChangeJournal {
  readonly #changes = new Map<string, PlainRequest>();

  /** A change that all workers took. */
  note(request: PlainRequest): void {
    const matter = matterOf(request);
    if (matter === undefined) return;
    this.#changes.delete(matter);
    this.#changes.set(matter, request);
    for (const oldest of this.#changes.keys()) {
      if (this.#changes.size <= changesMax) return;
      this.#changes.delete(oldest);
    }
  }

  /** Oldest first. */
  list(): readonly PlainRequest[] {
    return [...this.#changes.values()];
  }
}

/** What a change is about; undefined: nothing that a worker which joins would lack. Endpoints' states it hears from the others. */
function matterOf({ path: pathAndQuery, body }: PlainRequest): string | undefined {
  const [path = ''] = pathAndQuery.split('?');
  if (weightsPath.test(path)) return path;
  const [, pool, address] = memberPath.exec(path) ?? [];
  if (pool === undefined) return undefined;
  return `${pool} ${address === undefined ? addressIn(body) : decodeURIComponent(address)}`;
}

function addressIn(body = ''): string {
  const written = JSON.parse(body) as { readonly address?: unknown };
  return String(written.address);
}
