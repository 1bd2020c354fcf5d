import type { SeededRng } from './clock/seeded-rng.ts';
import type { VirtualTime } from './clock/virtual-time.ts';
import type { ProbeFinding, SimulatedEndpoint } from './simulated-endpoint.ts';

/** Between two probes of an endpoint's health, and how much longer or shorter that may be; `health.probe` of the configuration has the same. */
const intervalMs = 1_000;
const jitterShare = 0.1;
/** A probe that gets no answer has failed after so long, in ms; one that gets an answer takes next to nothing. */
const timeoutMs = 500;
/** Probes that have to fail in a row. */
const failuresMin = 2;

export interface SimulatedProbesOptions {
  readonly time: VirtualTime;
  readonly rng: SeededRng;
  readonly endpoint: SimulatedEndpoint;
  /** Whether discovery names the endpoint now: it is not probed otherwise. */
  readonly isNamed: () => boolean;
  /** Is told what the probes make of it, after each. */
  readonly onFinding: (finding: ProbeFinding) => void;
}

/** One router's probes of one endpoint. The first is there before the first request, as the service waits for it. */
export function startProbes({ time, rng, endpoint, isNamed, onFinding }: SimulatedProbesOptions): void {
  let failures = failuresMin - 1;
  const probe = (): void => {
    const finding = isNamed() ? endpoint.probe(time.nowMs()) : undefined;
    // A connection that is refused says so at once.
    const isSlow = finding === 'failing' && !endpoint.isDown;
    if (finding === undefined) failures = failuresMin - 1;
    else if (isSlow) time.after(timeoutMs, () => found(finding));
    else found(finding);
    time.after(intervalMs * rng.between(1 - jitterShare, 1 + jitterShare), probe);
  };
  const found = (finding: ProbeFinding): void => {
    failures = finding === 'failing' ? failures + 1 : 0;
    if ((finding !== 'failing' || failures >= failuresMin) && isNamed()) onFinding(finding);
  };
  const first = endpoint.probe(time.nowMs());
  if (isNamed()) found(first);
  time.after(rng.between(0, intervalMs), probe);
}
