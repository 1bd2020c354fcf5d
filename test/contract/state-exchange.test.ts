import { createMemoryExchange } from '../../src/router/memory-exchange.ts';
import { describeStateExchange } from './state-exchange-suite.ts';

// The same for Redis: test/integration/redis-exchange.test.ts.
describeStateExchange('memory', createMemoryExchange);
