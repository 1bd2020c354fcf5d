import { setImmediate } from 'node:timers/promises';
import type { CompiledConfig } from '../src/config/load-outcome.ts';
import type { EndpointChange } from '../src/fleet/endpoint-change.ts';
import { type RequestFacts, noFacts } from '../src/core/request-facts.ts';
import type { Completion } from '../src/router/ports.ts';
import type { Refusal } from '../src/router/refusal.ts';
import type { Routed } from '../src/router/routed.ts';
import { ChoiceChecker } from './checkers/choice-checker.ts';
import { ReservationChecker } from './checkers/reservation-checker.ts';
import { HealthChecker, healthLimitsOf } from './checkers/health-checker.ts';
import { type Violation, Violations } from './checkers/violation.ts';
import { SeededRng } from './clock/seeded-rng.ts';
import { VirtualTime } from './clock/virtual-time.ts';
import type { EngineEvent } from './engine/engine.ts';
import { routeExplained, type SimulatedExplanation } from './explanation.ts';
import type { Fault } from './faults.ts';
import { ModelledCaps } from './network/modelled-caps.ts';
import { ModelledRedis } from './network/modelled-redis.ts';
import { measuredRedis, type NetworkModel } from './network/network-model.ts';
import type { LoadSample, RequestEnding, RequestOutcome } from './outcomes.ts';
import { type Ailments, type EndpointModel, type ProbeFinding, SimulatedEndpoint } from './simulated-endpoint.ts';
import { startProbes } from './simulated-probes.ts';
import { createSimulatedRouter, type Sharing, type SimulatedRouter } from './simulated-router.ts';
import type { Workload, WorkloadRequest } from './workloads/workload.ts';

/** A fact that routers may be kept from seeing. */
export type HidableFact = 'session' | 'prefix' | 'promptTokens';

export interface SimulationOptions {
  /** The pools, policies and routes to run. */
  readonly config: CompiledConfig;
  /** What each address of the configuration is. */
  readonly endpoints: readonly EndpointModel[];
  readonly workload: Workload;
  /** Requests arrive so many times faster than in the workload. */
  readonly speed: number;
  readonly routers: number;
  readonly seed: number;
  readonly sharing: Sharing;
  readonly network: NetworkModel;
  readonly faults: readonly Fault[];
  /** Prompt lengths are estimated wrong by up to this share, evenly, up or down. */
  readonly estimateError: number;
  readonly hidden: ReadonlySet<HidableFact>;
  /** Longest that the access log holds a record, in ms (Envoy's buffer_flush_interval). */
  readonly accessLogMs: number;
  /** Share of access-log records that never arrive. */
  readonly recordLossShare: number;
  /** Share of clients that go away before the answer is complete. */
  readonly abortShare: number;
  /** Index of a request whose decision is to be explained. */
  readonly explained?: number | undefined;
  /** Called now and then with the share of requests that have arrived, 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** A run in which nothing goes wrong: routers push to one another over Redis as it was measured, and see and are told everything. */
export const undisturbed = {
  sharing: 'pushed',
  network: measuredRedis,
  faults: [],
  estimateError: 0,
  hidden: new Set(),
  accessLogMs: 50,
  recordLossShare: 0,
  abortShare: 0,
} as const satisfies Partial<SimulationOptions>;

/** A change of an endpoint's state, as one router made it. */
export interface RouterChange extends EndpointChange {
  readonly router: string;
}

/** What a run gave. */
export interface SimulationResult {
  /** In order of arrival. */
  readonly requests: readonly RequestOutcome[];
  /** By address, in the endpoints' order. */
  readonly endpoints: readonly { readonly address: string; readonly weight: number; readonly requests: number; readonly busyMs: number }[];
  readonly samples: readonly LoadSample[];
  /** Virtual time from the first arrival to the last end, in ms. */
  readonly durationMs: number;
  /** Messages between routers. */
  readonly messages: number;
  /** Every change of an endpoint's state, in every router, in order. */
  readonly changes: readonly RouterChange[];
  readonly violations: readonly Violation[];
  readonly violationCount: number;
  readonly explanation: SimulatedExplanation | undefined;
}

/** From the first chunk of a response to the router that has it noted, in ms. */
const firstTokenReportMs = 0.5;
/** Envoy's retries of an endpoint that did not take the request, and its pause before one, in ms (envoy/envoy.yaml). */
const retriesMax = 2;
const retryPauseMs = [10, 20] as const;
/** How long a client waits for the first token of an endpoint that stands still before it goes away, in ms. */
const patienceMs = 30_000;
/** Longest until a router hears of a change in discovery, in ms. */
const discoveryMs = 1_000;
/** From the first token of an answer to where it breaks off, in ms. */
const cutAfterMs = 20;
/** Samples of load over a run. */
const samplesPerRun = 1_600;
/** Time that reports and snapshots get to arrive after the last request, in ms. */
const settleMs = 3_000;
/** Virtual time after the last arrival, in ms, by which the slowest fleet has served all: what takes longer never ends. */
const endlessMs = 100 * 24 * 3_600_000;
/** Requests between two calls of `onProgress`. */
const progressEvery = 250;

/** A request under way. */
interface Active {
  readonly index: number;
  readonly request: WorkloadRequest;
  readonly outcome: RequestOutcome;
  readonly router: SimulatedRouter;
  routed: Routed;
  attempt: number;
  endpoint: SimulatedEndpoint | undefined;
}

/**
 * Runs real routers against modelled engines in virtual time. Equal options give an equal result. What a router decides by is what it
 * would know in service: its own dispatches, first tokens half a millisecond later, ends by an access log that any router may get,
 * the others' load by the exchange, health by probes.
 */
export async function simulate(options: SimulationOptions): Promise<SimulationResult> {
  return await new Simulation(options).run();
}

/** No lease expires earlier than this, in ms: by what is assumed, by what is configured, or by what was learned, which is at least a minute. */
function shortestLeaseMs({ settings: { leases } }: CompiledConfig): number {
  return Math.min(leases.assumedDurationMs, leases.expireAfterMsMax, 60_000);
}

class Simulation {
  readonly #options: SimulationOptions;
  readonly #time = new VirtualTime();
  readonly #rng: { readonly arrivals: SeededRng; readonly reports: SeededRng; readonly estimates: SeededRng; readonly clients: SeededRng; readonly probes: SeededRng };
  readonly #redis: ModelledRedis;
  readonly #routers: readonly SimulatedRouter[];
  readonly #endpoints: readonly SimulatedEndpoint[];
  readonly #byAddress: ReadonlyMap<string, SimulatedEndpoint>;
  /** Addresses that discovery does not name now. */
  readonly #absent = new Set<string>();
  readonly #active = new Map<number, Active>();
  readonly #outcomes: RequestOutcome[] = [];
  readonly #samples: LoadSample[] = [];
  readonly #changes: RouterChange[] = [];
  readonly #violations = new Violations();
  readonly #reservationChecker: ReservationChecker;
  readonly #choiceChecker: ChoiceChecker;
  readonly #healthChecker: HealthChecker;
  #explanation: SimulatedExplanation | undefined;
  #arrived = 0;
  #unsettled = 0;
  /** Requests that wait for a place on an endpoint with an exact limit. */
  #securing = 0;
  #lastEndMs = 0;

  constructor(options: SimulationOptions) {
    const { seed, network, config, routers, sharing } = options;
    const rng = new SeededRng(seed);
    this.#options = options;
    this.#rng = { arrivals: rng.stream('arrivals'), reports: rng.stream('reports'), estimates: rng.stream('estimates'), clients: rng.stream('clients'), probes: rng.stream('probes') };
    this.#redis = new ModelledRedis(this.#time, rng.stream('network'), network);
    this.#endpoints = options.endpoints.map((model) => new SimulatedEndpoint(model));
    this.#byAddress = new Map(this.#endpoints.map((endpoint) => [endpoint.model.address, endpoint]));
    const caps = new ModelledCaps(this.#time, this.#redis);
    const phases = rng.stream('phases');
    this.#routers = Array.from({ length: routers }, (_, i) =>
      createSimulatedRouter({
        id: `sim-${i}`,
        config,
        time: this.#time,
        rng: rng.stream(`router ${i}`),
        // A router that is alone has nobody to share with.
        sharing: routers === 1 ? 'none' : sharing,
        redis: this.#redis,
        caps,
        phaseMs: phases.between(0, 100),
        onChange: (router, change) => {
          this.#changes.push({ ...change, router: router.id });
          this.#healthChecker.changed(router, change);
        },
      }),
    );
    this.#healthChecker = new HealthChecker(this.#violations, this.#byAddress, healthLimitsOf(config));
    this.#reservationChecker = new ReservationChecker(this.#violations);
    const limitsHold = (address: string): boolean =>
      (routers === 1 || (sharing !== 'none' && network.outages.length === 0)) && this.#oldestMs(address) < shortestLeaseMs(config);
    this.#choiceChecker = new ChoiceChecker(this.#violations, this.#byAddress, limitsHold);
  }

  async run(): Promise<SimulationResult> {
    const { workload, speed, faults } = this.#options;
    this.#unsettled = workload.requests.length;
    for (const { model } of this.#endpoints) this.#choiceChecker.started(model.address, 0);
    for (const fault of faults) this.#plan(fault);
    this.#startProbes();
    this.#sample((workload.requests.at(-1)?.arrivalMs ?? 0) / speed / samplesPerRun);
    this.#arriveNext();

    let endMs = Infinity;
    const giveUpMs = (workload.requests.at(-1)?.arrivalMs ?? 0) / speed + endlessMs;
    for (;;) {
      const nextMs = this.#time.nextMs;
      if (nextMs === undefined || nextMs > endMs) break;
      this.#advanceEngines(nextMs);
      this.#time.step();
      // A request that waits for a place goes on by promises: they get their turn before time goes on.
      if (this.#securing > 0) await setImmediate();
      if (this.#time.nowMs() > giveUpMs) throw new Error(`${this.#unsettled} requests have not ended after ${giveUpMs} ms of virtual time`);
      if (this.#unsettled === 0 && endMs === Infinity) endMs = this.#time.nowMs() + this.#patienceMs();
    }
    const nowMs = this.#time.nowMs();
    for (const router of this.#routers) this.#reservationChecker.checkEnd(router, nowMs);
    return this.#toResult();
  }

  /** Time for the last reports; where some never come, for leases to expire. */
  #patienceMs(): number {
    const { recordLossShare, config, network } = this.#options;
    const outageEndMs = Math.max(0, ...network.outages.map(({ toMs }) => toMs - this.#time.nowMs()));
    // A report that was to be handed on while Redis was away is lost too.
    const lastSilenceMs = network.lossShare > 0 || recordLossShare > 0 || network.outages.length > 0;
    return settleMs + this.#options.accessLogMs + outageEndMs + (lastSilenceMs ? config.settings.leases.expireAfterMsMax : 0);
  }

  #arriveNext(): void {
    const { workload, speed, onProgress } = this.#options;
    const index = this.#arrived;
    const request = workload.requests[index];
    if (request === undefined) return;
    this.#time.at(request.arrivalMs / speed, () => {
      this.#arrived += 1;
      if (index % progressEvery === 0) onProgress?.(index / workload.requests.length);
      this.#arriveNext();
      this.#arrive(index, request);
    });
  }

  #arrive(index: number, request: WorkloadRequest): void {
    const nowMs = this.#time.nowMs();
    const { promptTokens, outputTokens, session } = request;
    const outcome: RequestOutcome = {
      arrivalMs: nowMs,
      promptTokens,
      outputTokens,
      session,
      address: undefined,
      turnedAwayBy: undefined,
      reason: undefined,
      ttftMs: undefined,
      durationMs: undefined,
      cachedTokens: 0,
      sent: 0,
      ending: undefined,
    };
    this.#outcomes.push(outcome);
    const router = this.#anyRouter(this.#rng.arrivals);
    const facts = this.#toFacts(request);
    const answer = this.#route(router, facts, index);
    if (answer.kind !== 'route') {
      this.#refused(outcome, answer);
      return;
    }
    outcome.reason = answer.decision.reason;
    this.#choiceChecker.chose(router, answer, nowMs);
    this.#healthChecker.chose(router, answer, nowMs);
    this.#checkBooks(router, answer);
    const active: Active = { index, request, outcome, router, routed: answer, attempt: 0, endpoint: undefined };
    this.#active.set(index, active);
    if (!answer.needsPlace) {
      this.#send(active);
      return;
    }
    this.#securing += 1;
    void router.router.secure(answer).then((secured) => {
      this.#securing -= 1;
      if (secured.kind === 'route') {
        active.routed = secured;
        this.#time.after(0, () => this.#send(active));
      } else {
        this.#active.delete(index);
        this.#refused(outcome, secured);
      }
    });
  }

  #route(router: SimulatedRouter, facts: RequestFacts, index: number): Routed | Refusal {
    if (index !== this.#options.explained) return router.router.route(facts);
    const { answer, explanation } = routeExplained(router, facts, this.#time.nowMs());
    this.#explanation = explanation;
    return answer;
  }

  #toFacts({ path, model, tenant, session, promptTokens, blockHashes }: WorkloadRequest): RequestFacts {
    const { hidden, estimateError } = this.#options;
    const estimated = estimateError === 0 ? promptTokens : Math.max(1, Math.round(promptTokens * this.#rng.estimates.between(1 - estimateError, 1 + estimateError)));
    return {
      ...noFacts,
      path,
      model,
      tenant,
      session: hidden.has('session') ? undefined : session,
      promptTokens: hidden.has('promptTokens') ? undefined : estimated,
      stream: true,
      prefixHashes: hidden.has('prefix') ? [] : blockHashes,
    };
  }

  #send(active: Active): void {
    const { routed, index, request, outcome, router } = active;
    const nowMs = this.#time.nowMs();
    const address = routed.addresses[active.attempt];
    const endpoint = address === undefined ? undefined : this.#byAddress.get(address);
    if (address === undefined || endpoint === undefined) {
      this.#fail(active, 503);
      return;
    }
    outcome.sent += 1;
    const result = endpoint.send(index, request, nowMs);
    switch (result) {
      case 'taken': {
        active.endpoint = endpoint;
        outcome.address = address;
        const known = router.fleet.pool(routed.pool.name)?.endpoint(address);
        if (known !== undefined) this.#choiceChecker.reached(known, nowMs);
        this.#planAbort(active);
        if (endpoint.hangs) this.#planImpatience(active);
        return;
      }
      case 'too-long':
        this.#end(active, 'too-long', { ending: 'finished', status: 400 });
        return;
      case 'failed':
      case 'refused-connection':
      case 'queue-full': {
        outcome.turnedAwayBy ??= address;
        if (active.attempt >= retriesMax || active.attempt + 1 >= routed.addresses.length) {
          if (result === 'failed') outcome.address = address;
          this.#fail(active, result === 'failed' ? 500 : 503);
          return;
        }
        active.attempt += 1;
        this.#time.after(this.#rng.clients.between(...retryPauseMs), () => this.#send(active));
      }
    }
  }

  #planAbort(active: Active): void {
    const { abortShare } = this.#options;
    const rng = this.#rng.clients;
    if (abortShare === 0 || !rng.chance(abortShare)) return;
    this.#time.after(rng.exponential(2_000), () => {
      if (this.#active.get(active.index) !== active) return;
      active.endpoint?.cancel(active.index, this.#time.nowMs());
      this.#end(active, 'client-abort', { ending: 'client-abort', status: 0 });
    });
  }

  /** A client that has waited long enough for an endpoint that stands still goes away. */
  #planImpatience(active: Active): void {
    const { endpoint, outcome, index } = active;
    this.#time.at(Math.max(this.#time.nowMs(), outcome.arrivalMs + patienceMs), () => {
      if (this.#active.get(index) !== active || endpoint === undefined || active.endpoint !== endpoint || !endpoint.hangs) return;
      endpoint.cancel(index, this.#time.nowMs());
      this.#end(active, 'client-abort', { ending: 'client-abort', status: 0 });
    });
  }

  #fail(active: Active, status: number): void {
    this.#end(active, 'endpoint-failed', { ending: 'upstream-failure', status });
  }

  #refused(outcome: RequestOutcome, { code }: Refusal): void {
    outcome.ending = `refused: ${code}`;
    this.#unsettled -= 1;
  }

  /** A request is over: whichever router Envoy's log stream leads to hears of it, within its flush interval. */
  #end(active: Active, ending: RequestEnding, completion: Omit<Completion, 'signal'>): void {
    const { index, outcome, routed } = active;
    this.#active.delete(index);
    outcome.ending = ending;
    this.#unsettled -= 1;
    this.#lastEndMs = this.#time.nowMs();
    const { accessLogMs, recordLossShare, sharing } = this.#options;
    const rng = this.#rng.reports;
    if (recordLossShare > 0 && rng.chance(recordLossShare)) return;
    // Routers that share nothing cannot hand reports on: each then sits beside an Envoy of its own.
    const reporter = sharing === 'none' ? active.router : this.#anyRouter(rng);
    this.#time.after(rng.between(0, accessLogMs), () => {
      reporter.router.observe(routed.lease, { ...completion, signal: 'access-log', servedBy: routed.addresses[active.attempt], attempts: active.attempt + 1 });
      this.#healthChecker.tried(active.router, routed);
      this.#checkBooks(reporter, routed);
    });
  }

  /** How long the oldest request on an endpoint has been under way, in ms. */
  #oldestMs(address: string): number {
    const arrivals = [...(this.#byAddress.get(address)?.inFlight ?? [])].map((index) => this.#active.get(index)?.outcome.arrivalMs ?? Infinity);
    return this.#time.nowMs() - Math.min(...arrivals);
  }

  #advanceEngines(untilMs: number): void {
    for (const endpoint of this.#endpoints) {
      const nextMs = endpoint.nextEventMs;
      if (nextMs === undefined || nextMs >= untilMs) continue;
      for (const event of endpoint.advanceBefore(untilMs)) this.#time.at(event.atMs, () => this.#onEngineEvent(endpoint, event));
    }
  }

  #onEngineEvent(endpoint: SimulatedEndpoint, event: EngineEvent): void {
    const active = typeof event.id === 'number' ? this.#active.get(event.id) : undefined;
    // What a client no longer waits for, or what died with its endpoint, is nobody's.
    if (active === undefined || active.endpoint !== endpoint) return;
    const { outcome, router, routed } = active;
    if (event.kind === 'first-token') {
      outcome.ttftMs = event.atMs - outcome.arrivalMs;
      outcome.cachedTokens = event.cachedTokens;
      if (!routed.pool.observeFirstToken) return;
      this.#time.after(firstTokenReportMs, () => {
        router.router.firstToken(routed.lease);
        this.#healthChecker.tried(router, routed);
        this.#checkBooks(router, routed);
      });
      if (endpoint.cuts) this.#time.after(cutAfterMs, () => this.#cut(active, endpoint));
    } else if (event.kind === 'done') {
      endpoint.ended(active.index);
      outcome.durationMs = event.atMs - outcome.arrivalMs;
      this.#end(active, 'finished', { ending: 'finished', status: 200 });
    }
  }

  /** An answer breaks off: the client has part of it, so nobody tries again. */
  #cut(active: Active, endpoint: SimulatedEndpoint): void {
    if (this.#active.get(active.index) !== active || active.endpoint !== endpoint) return;
    endpoint.cancel(active.index, this.#time.nowMs());
    this.#end(active, 'endpoint-failed', { ending: 'upstream-failure', status: 200 });
  }

  #plan(fault: Fault): void {
    const endpoint = this.#byAddress.get(fault.address);
    if (endpoint === undefined) throw new Error(`a fault of ${fault.address}, which is no endpoint`);
    const { fromMs, toMs } = fault;
    const during = (begin: () => void, end: () => void): void => {
      this.#now(fromMs, begin);
      if (toMs < Infinity) this.#time.at(toMs, end);
    };
    const recover = (): void => endpoint.recover(this.#time.nowMs());
    const ail = (ailments: Partial<Ailments>): void => {
      this.#choiceChecker.disturbed(fault.address, this.#time.nowMs());
      endpoint.ail(ailments, this.#time.nowMs());
    };
    switch (fault.kind) {
      case 'down':
        during(() => this.#kill(endpoint), () => this.#start(endpoint, 0));
        return;
      case 'restart':
        during(() => this.#kill(endpoint), () => this.#start(endpoint, fault.loadMs));
        return;
      case 'flap':
        for (let atMs = fromMs; atMs < toMs; atMs += 2 * fault.periodMs) {
          this.#now(atMs, () => this.#kill(endpoint));
          this.#time.at(Math.min(toMs, atMs + fault.periodMs), () => this.#start(endpoint, 0));
        }
        return;
      case 'slow':
        during(() => ail({ slowFactor: fault.factor }), recover);
        return;
      case 'fail':
        during(() => ail({ failShare: fault.share, probesPass: fault.probesPass }), recover);
        return;
      case 'cut':
        during(() => ail({ cuts: true, probesPass: fault.probesPass }), recover);
        return;
      case 'hang':
        during(
          () => {
            ail({ hangs: true, probesPass: fault.probesPass });
            for (const index of endpoint.inFlight) {
              const active = this.#active.get(index);
              if (active !== undefined) this.#planImpatience(active);
            }
          },
          () => {
            this.#kill(endpoint);
            endpoint.recover(this.#time.nowMs());
            this.#start(endpoint, 0);
          },
        );
        return;
      case 'absent':
        during(() => this.#setNamed(fault.address, false), () => this.#setNamed(fault.address, true));
    }
  }

  /** At once where it is due at the very start, so that nothing comes before it. */
  #now(atMs: number, action: () => void): void {
    if (atMs <= 0) action();
    else this.#time.at(atMs, action);
  }

  #kill(endpoint: SimulatedEndpoint): void {
    this.#choiceChecker.disturbed(endpoint.model.address, this.#time.nowMs());
    for (const index of endpoint.kill(this.#time.nowMs())) {
      const active = this.#active.get(index);
      // Envoy does not send again what an endpoint may have been at work on.
      if (active !== undefined) this.#fail(active, 502);
    }
  }

  #start(endpoint: SimulatedEndpoint, loadMs: number): void {
    const nowMs = this.#time.nowMs();
    endpoint.start(nowMs + loadMs);
    this.#choiceChecker.started(endpoint.model.address, nowMs + loadMs);
  }

  /** Discovery names an endpoint, or does so no longer: every router hears of it in its turn. */
  #setNamed(address: string, isNamed: boolean): void {
    const endpoint = this.#byAddress.get(address);
    // Who is not named can serve nobody, well as it may be.
    if (isNamed) {
      this.#absent.delete(address);
      endpoint?.recover(this.#time.nowMs());
      this.#choiceChecker.started(address, this.#time.nowMs());
    } else {
      this.#absent.add(address);
      endpoint?.ail({}, this.#time.nowMs());
      this.#choiceChecker.disturbed(address, this.#time.nowMs());
    }
    for (const router of this.#routers) {
      const hear = (): void => router.discover(this.#absent);
      if (this.#time.nowMs() <= 0) hear();
      else this.#time.after(this.#rng.probes.between(0, discoveryMs), hear);
    }
  }

  /** Every router probes for itself. Endpoints with which nothing will be wrong would pass each time: once is enough. */
  #startProbes(): void {
    const faulty = new Set(this.#options.faults.map((fault) => fault.address));
    for (const endpoint of this.#endpoints) {
      const { address } = endpoint.model;
      for (const router of this.#routers) {
        const onFinding = (finding: ProbeFinding): void => router.probed(address, finding);
        if (!faulty.has(address)) onFinding('passing');
        else startProbes({ time: this.#time, rng: this.#rng.probes, endpoint, isNamed: () => !this.#absent.has(address), onFinding });
      }
    }
  }

  #checkBooks(router: SimulatedRouter, { pool, addresses }: Routed): void {
    const known = router.fleet.pool(pool.name);
    for (const address of addresses.slice(0, 1)) {
      const endpoint = known?.endpoint(address);
      if (endpoint !== undefined) this.#reservationChecker.check(router, endpoint, this.#time.nowMs());
    }
  }

  #anyRouter(rng: SeededRng): SimulatedRouter {
    const router = this.#routers[this.#routers.length === 1 ? 0 : rng.below(this.#routers.length)];
    if (router === undefined) throw new Error('at least one router is needed');
    return router;
  }

  #sample(periodMs: number): void {
    this.#samples.push({ atMs: this.#time.nowMs(), inFlight: this.#endpoints.map(({ inFlight }) => inFlight.size) });
    if (this.#unsettled > 0) this.#time.after(Math.max(periodMs, 1), () => this.#sample(periodMs));
  }

  #toResult(): SimulationResult {
    const weights = new Map(this.#options.config.pools.flatMap(({ endpoints }) => endpoints.map(({ address, weight }) => [address, weight] as const)));
    return {
      requests: this.#outcomes,
      endpoints: this.#endpoints.map(({ model: { address }, requests, busyMs }) => ({ address, weight: weights.get(address) ?? 1, requests, busyMs })),
      samples: this.#samples,
      durationMs: this.#lastEndMs - (this.#outcomes[0]?.arrivalMs ?? 0),
      messages: this.#redis.messages,
      changes: this.#changes,
      violations: this.#violations.kept,
      violationCount: this.#violations.count,
      explanation: this.#explanation,
    };
  }
}
